"""LoRA: small trained matrices beside a frozen trunk (Hu et al. 2021), and models that share one.

    y = base(x) + (x A^T) B^T * alpha / rank

Nothing switches adapters. Every model (policy, reference, critic, reward models) is a tree of
modules of its own, with its own A and B, whose base tensors are the very same objects: `share`. So
a pass through a model is an ordinary pass, and four models cost one trunk and four adapters.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.errors import InputError
from puna.model.quantised import QuantLinear, Stored, quantise
from puna.model.transformer import Transformer

# matrices of a layer that can be adapted -> where they are
PLACES = {
    **dict.fromkeys(("wq", "wk", "wv", "wo"), "attention"),
    **dict.fromkeys(("w1", "w2", "w3"), "feed_forward"),
}
M = TypeVar("M", bound=nn.Module)
MOST_RANK = 1 << 16  # beyond any matrix's width: a number that is not a rank


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices get an adapter, and its size."""

    rank: int = 0  # rows of A, columns of B; 0: no adapters, every weight is trained
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    # adapted matrices of every layer, by Meta's names
    targets: tuple[str, ...] = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    # how the frozen matrices are held: as they are, in 8 or in 4 bits (QLoRA)
    base: Literal["none", "int8", "nf4"] = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MOST_RANK:
            raise InputError(f"lora.rank is {self.rank}, expected 0 (no adapters) or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"lora.alpha is {self.alpha}, expected a positive number")
        if self.rank == 0 and self.base in ("int8", "nf4"):
            raise InputError(f"lora.base is {self.base}, which needs a lora.rank above 0")
        if self.base not in ("none", "int8", "nf4"):
            raise InputError(f"lora.base is {self.base!r}, expected none, int8 or nf4")
        strange = [name for name in self.targets if name not in PLACES]
        if strange or not self.targets or len(set(self.targets)) != len(self.targets):
            given = ",".join(self.targets)
            raise InputError(f"lora.targets is {given!r}, expected some of {','.join(PLACES)}")

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Trunk:
    """A frozen model that others share, and where it came from; held by all that share it."""

    place: Path  # the checkpoint
    sha256: str  # of its weights
    model: Transformer = field(repr=False)
    tokenizer: Any = field(default=None, repr=False)
    name: str = ""  # what the user calls it, if that is no path (smollm2)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Trunk":
        return self


class LoraLinear(nn.Module):
    """A frozen linear layer and an adapter beside it, in float32 whatever the base's type.

    A is drawn as in PEFT (uniform, bound 1 / sqrt(in_features)), B is zero: a new adapter changes
    nothing. Computed in float32, returned in the base's type.
    """

    def __init__(
        self,
        base: nn.Linear | QuantLinear,
        config: LoraConfig,
        generator: torch.Generator | None = None,
        trunk: Trunk | None = None,
    ):
        super().__init__()
        self.base, self.config, self.trunk = base, config, trunk
        device = next(base.parameters()).device
        drawn = torch.zeros(config.rank, base.in_features)
        if generator is not None:
            bound = 1 / math.sqrt(base.in_features)
            drawn.uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(drawn.to(device))  # [rank, in]
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        added = F.linear(F.linear(x.to(self.lora_a.dtype), self.lora_a), self.lora_b)
        return torch.add(y, added, alpha=self.config.scale).type_as(y)

    def dense(self) -> Tensor:
        """The matrix that base and adapter are together, in the base's type (float32 if
        quantised).
        """
        base = self.base
        weight = base.dense(torch.float32) if isinstance(base, QuantLinear) else base.weight
        return fold(weight, self.lora_a, self.lora_b, self.config.scale).detach()


def fold(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """weight + scale * B A, computed in float32, in the weight's type."""
    return (weight.float() + scale * (b @ a)).type_as(weight)


class MergedLinear(nn.Linear):
    """A dense layer made of a base and its adapter, which it remembers for `unmerge`."""

    def __init__(self, adapted: LoraLinear):
        weight = adapted.dense()
        out, width = weight.shape
        super().__init__(width, out, bias=False, device="meta", dtype=weight.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.adapted = [adapted]  # in a list: its parameters are not this layer's


def attach(
    model: Transformer,
    config: LoraConfig,
    generator: torch.Generator | None = None,
    trunk: Trunk | None = None,
) -> Transformer:
    """Give `model` adapters in place and freeze everything else; returns it.

    Without a generator A is zero too, to be loaded. `trunk`: where the frozen tensors came from,
    for checkpoints. InputError: rank 0, a model that has adapters, one that is quantised otherwise.
    """
    if config.rank == 0:
        raise InputError("lora.rank is 0: there is no adapter to attach")
    if config_of(model) is not None:
        raise InputError("the model has adapters already; merge them or train them further")
    freeze(model, config.base)
    for _, parent, name, linear in linears(model):
        if name in config.targets:
            setattr(parent, name, LoraLinear(linear, config, generator, trunk))
    return model


def freeze(model: Transformer, kind: Stored = "none") -> Transformer:
    """Nothing of `model` is trained any more, and the layers' matrices are stored as `kind`."""
    model.requires_grad_(False)
    for place, parent, name, linear in linears(model):
        stored = linear.kind if isinstance(linear, QuantLinear) else "none"
        if stored == kind:
            continue
        if not isinstance(linear, nn.Linear):
            raise InputError(f"{place} is stored in {stored} already, not in {kind}")
        setattr(parent, name, quantise(linear, kind))
    return model


def share(model: M) -> M:
    """A new model with the same base tensors (the same memory) and adapters of its own.

    What is frozen and no adapter is shared, all else is copied: training either model never changes
    the other.
    """
    own = {id(tensor) for tensor in adapter_tensors(model).values()}
    shared = [p for p in model.parameters() if not p.requires_grad and id(p) not in own]
    shared += list(model.buffers())  # type: ignore[arg-type]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def merge(model: Transformer, keep: bool = False) -> Transformer:
    """Fold the adapters into dense matrices in place; returns the model, still frozen.

    The bases are not touched, since other models share them: the merged matrices are new. With
    `keep` each remembers its base and adapter (at the cost of their memory), so that `unmerge`
    gives the same bits back, which a subtraction would not.
    """
    for parent, name, adapted in adapted_layers(model):
        merged = MergedLinear(adapted)
        if not keep:
            merged.adapted.clear()
        setattr(parent, name, merged)
    return model


def unmerge(model: Transformer) -> Transformer:
    """Undo `merge(model, keep=True)` bit for bit, in place; returns the model.

    InputError if nothing was merged, or the adapters were not kept.
    """
    found = [(p, name, layer) for _, p, name, layer in linears(model) if is_merged(layer)]
    if not found:
        raise InputError("the model has no merged adapters")
    if not all(layer.adapted for _, _, layer in found):
        raise InputError("the adapters were merged without being kept, they cannot be taken out")
    for parent, name, layer in found:
        setattr(parent, name, layer.adapted[0])
    return model


def is_merged(layer: nn.Module) -> bool:
    """Whether a layer was made by `merge`."""
    return isinstance(layer, MergedLinear)


def config_of(model: nn.Module) -> LoraConfig | None:
    """The settings of a model's adapters; None if it has none."""
    return next((m.config for m in model.modules() if isinstance(m, LoraLinear)), None)


def trunk_of(model: nn.Module) -> Trunk | None:
    """Where a model's frozen tensors came from; None if it has no adapters or nobody said."""
    return next((m.trunk for m in model.modules() if isinstance(m, LoraLinear)), None)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted matrix: "layers.0.attention.wq.lora_a" and so on."""
    prefix = {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}
    return {
        f"{name}.{which}": getattr(module, which)
        for name, module in prefix.items()
        for which in ("lora_a", "lora_b")
    }


def load_adapter(
    model: Transformer,
    tensors: Mapping[str, Tensor],
    config: LoraConfig,
    trunk: Trunk | None = None,
) -> Transformer:
    """Attach adapters and fill them with `tensors` (names as in `adapter_tensors`); returns it.

    InputError names a tensor that is missing, unknown, of another shape or not finite; the model is
    then as it was.
    """
    if config_of(model) is not None:
        raise InputError("the model has adapters already; merge them or train them further")
    expected = expected_adapter(model, config)
    for name in expected:
        if name not in tensors:
            raise InputError(f"the adapter has no {name}")
    for name, tensor in tensors.items():
        if name not in expected:
            raise InputError(f"the adapter holds {name}, which its settings do not mention")
        if tuple(tensor.shape) != expected[name]:
            shapes = f"{list(tensor.shape)}, this model's has {list(expected[name])}"
            raise InputError(f"the adapter was made for another base: {name} has shape {shapes}")
        if not torch.isfinite(tensor).all():
            raise InputError(f"the adapter's {name} holds a number that is not finite")
    attach(model, config, trunk=trunk)
    for name, own in adapter_tensors(model).items():
        own.data.copy_(tensors[name])
    return model


def expected_adapter(model: Transformer, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter for `model`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, _, name, linear in linears(model):
        if name in config.targets:
            shapes[f"{place}.lora_a"] = (config.rank, linear.in_features)
            shapes[f"{place}.lora_b"] = (linear.out_features, config.rank)
    return shapes


def linears(model: Transformer) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """(full name, module that holds it, name, layer) of every matrix that can be adapted."""
    for number, block in enumerate(model.layers):
        for name, room in PLACES.items():
            parent = getattr(block, room)
            yield f"layers.{number}.{room}.{name}", parent, name, getattr(parent, name)


def adapted_layers(model: Transformer) -> list[tuple[nn.Module, str, LoraLinear]]:
    """The adapted layers and where they are. InputError if there is none."""
    found = [(p, n, layer) for _, p, n, layer in linears(model) if isinstance(layer, LoraLinear)]
    if not found:
        raise InputError("the model has no adapters")
    return found
