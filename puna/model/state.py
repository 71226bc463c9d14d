"""The state of a training: from it, the training goes on bit for bit as if it had never stopped.

    <run>/state/step-00000123/
        modules.safetensors     "<module>/<tensor>"
        optimizers.safetensors  "<optimizer>/<module>/<parameter>/<exp_avg, exp_avg_sq or step>"
        extra.json              what else the recipe wants back
        manifest.json           step, and the SHA-256 of the others

Of a model with adapters the state holds what is trained; the manifest names the SHA-256 of the
trunk under it, and on another one the training does not go on.

Random numbers need no state: recipes derive their generators from the seed and the step. Settings
of the optimiser (learning rate, weight decay) are not stored either: they are in the run's config.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from puna.errors import InputError
from puna.model import folders
from puna.model.lora import config_of, trunk_of
from puna.model.tensors import read_tensors, refuse_differences
from puna.text.files import PathLike, read_json, write_json

FILES = ("modules.safetensors", "optimizers.safetensors", "extra.json")
STEP = re.compile(r"step-(\d{8,})")


def save_state(
    folder: PathLike,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    extra: Mapping[str, Any],
) -> None:
    """Write the state after `step` steps into `folder`/state atomically, then remove older ones.

    extra: JSON values. An incomplete state is never visible under its name. ValueError if an
    optimizer holds a parameter of none of the modules.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in _module_tensors(modules)}
    moments = {name: t.detach().cpu().contiguous() for name, t in _moments(modules, optimizers)}

    def write(place: Path) -> None:
        save_file(tensors, place / FILES[0])
        save_file(moments, place / FILES[1])
        write_json(place / FILES[2], dict(extra))
        folders.seal(place, step=step, **_trunks(modules))

    states = Path(folder) / "state"
    name = f"step-{step:08d}"
    folders.commit(states / name, write)
    for other in states.iterdir():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


def load_state(
    folder: PathLike, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> tuple[int, dict[str, Any]] | None:
    """Restore modules and optimizers from the newest state; its step and extra, or None if none.

    Everything is checked before anything is restored: InputError names a file that was changed, or
    a tensor that is missing, unknown, or of another shape or type.
    """
    place = newest(Path(folder) / "state")
    if place is None:
        return None
    record = folders.verify(place, FILES)
    step = record.get("step")
    if not isinstance(step, int):
        raise InputError(f"{place / folders.MANIFEST}: step is {step!r}, expected a whole number")
    if record.get("trunks") != _trunks(modules).get("trunks"):
        raise InputError(f"{place}: was made on another base model, it cannot go on with this one")
    tensors = read_tensors(place / FILES[0])
    refuse_differences(place / FILES[0], tensors, dict(_module_tensors(modules)), types=True)
    moments = read_tensors(place / FILES[1])
    restored = _optimizer_states(place / FILES[1], moments, modules, optimizers)
    extra = read_json(place / FILES[2])
    for key, module in modules.items():
        own = {name: tensors[f"{key}/{name}"] for name in _trained(module)}
        module.load_state_dict(own, strict=not _frozen(module))
    for key, optimizer in optimizers.items():
        optimizer.load_state_dict({**optimizer.state_dict(), "state": restored[key]})
    return step, extra


def newest(states: Path) -> Path | None:
    """The folder of the newest state, after undoing a save that was interrupted; None if none."""
    if not states.is_dir():
        return None
    for name in {path.name[1:].rpartition(".")[0] for path in states.glob(".step-*")}:
        folders.recover(states / name)
    found = [path for path in states.iterdir() if STEP.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def _module_tensors(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for key, module in modules.items():
        for name, tensor in _trained(module).items():
            yield f"{key}/{name}", tensor


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module that a training can change: all, but for frozen parameters."""
    frozen = _frozen(module)
    return {name: t for name, t in module.state_dict().items() if name not in frozen}


def _frozen(module: nn.Module) -> set[str]:
    """The parameters of a trunk under adapters; nothing of a model without adapters."""
    if config_of(module) is None:
        return set()
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _trunks(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, str]]:
    """What the manifest says of the frozen trunks: their SHA-256 by the name of the module."""
    found = {key: trunk_of(module) for key, module in modules.items() if config_of(module)}
    if not found:
        return {}
    return {"trunks": {key: trunk.sha256 if trunk else "unnamed" for key, trunk in found.items()}}


def _parameters(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> Iterator[tuple[str, str, Tensor]]:
    """Optimizer, name "<module>/<parameter>" and parameter, in each optimizer's own order."""
    names = {
        id(parameter): f"{key}/{name}"
        for key, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    for key, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    shape = list(parameter.shape)
                    raise ValueError(f"optimizer {key} holds a parameter {shape} of no module")
                yield key, names[id(parameter)], parameter


def _moments(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that an optimizer keeps; a parameter that never had a gradient has none."""
    for key, name, parameter in _parameters(modules, optimizers):
        for field, value in optimizers[key].state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"optimizer {key} keeps {field} of {name} as {type(value).__name__}"
                )
            yield f"{key}/{name}/{field}", value


def _optimizer_states(
    path: Path,
    moments: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> dict[str, dict[int, dict[str, Tensor]]]:
    """The "state" of each optimizer's state_dict: fields by the parameter's number in it."""
    stored: dict[str, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        owner, _, field = name.rpartition("/")
        stored.setdefault(owner, {})[field] = tensor
    restored: dict[str, dict[int, dict[str, Tensor]]] = {key: {} for key in optimizers}
    number = dict.fromkeys(optimizers, 0)
    for key, name, parameter in _parameters(modules, optimizers):
        fields = stored.pop(f"{key}/{name}", None)
        if fields is not None:
            shapes = {field: t if t.ndim == 0 else parameter for field, t in fields.items()}
            refuse_differences(path, fields, shapes)
            restored[key][number[key]] = fields
        number[key] += 1
    if stored:
        raise InputError(f"{path}: {next(iter(stored))} is not a parameter of these optimizers")
    return restored
