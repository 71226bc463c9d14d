"""The state of a training: it goes on bit for bit, or is refused with a reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from puna.errors import InputError
from puna.model import checkpoint
from puna.model.heads import ValueModel
from puna.numerics.optim import OptimConfig, adamw
from tests.faults import Killed, kill_at_rename
from tests.models import generator, new_model


class Training:
    """A small training that draws its batches from the step alone, as recipes do."""

    def __init__(self, seed: int = 0) -> None:
        self.modules = {"policy": new_model(seed), "critic": ValueModel(new_model(seed + 1))}
        config = OptimConfig(lr=1e-2)
        self.optimizers = {name: adamw(module, config) for name, module in self.modules.items()}

    def step(self, number: int) -> None:
        batch = torch.randint(0, 384, (2, 8), generator=generator(number))
        loss = self.modules["policy"](batch).square().mean()
        loss = loss + (self.modules["critic"](batch) - 1).square().mean()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()

    def save(self, folder: Path, step: int, **extra) -> None:
        checkpoint.save_state(folder, step, self.modules, self.optimizers, extra)

    def load(self, folder: Path):
        return checkpoint.load_state(folder, self.modules, self.optimizers)

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for key, module in self.modules.items():
            found.update({f"{key} {name}": t for name, t in module.state_dict().items()})
            state = self.optimizers[key].state_dict()["state"]
            found.update(
                {f"{key} {i} {f}": t for i, kept in state.items() for f, t in kept.items()}
            )
        return found


def assert_equal(one: Training, two: Training) -> None:
    a, b = one.tensors(), two.tensors()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_training_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    whole = Training()
    for number in range(6):
        whole.step(number)
    first = Training()
    for number in range(3):
        first.step(number)
    first.save(tmp_path, 3, best=0.5)
    second = Training(seed=9)  # other weights: everything must come from the state
    assert second.load(tmp_path) == (3, {"best": 0.5})
    assert_equal(first, second)
    for number in range(3, 6):
        second.step(number)
    assert_equal(whole, second)


def test_without_a_state_nothing_is_loaded(tmp_path):
    training = Training()
    assert training.load(tmp_path) is None
    assert_equal(training, Training())


def test_a_state_before_the_first_step_is_restored_too(tmp_path):
    Training().save(tmp_path, 0)
    other = Training(seed=4)
    assert other.load(tmp_path) == (0, {})
    assert_equal(other, Training())


def test_only_the_newest_state_is_kept(tmp_path):
    training = Training()
    for number in (1, 2, 10):
        training.save(tmp_path, number)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("step", [3, 4], ids=["same-step", "later-step"])
def test_a_kill_while_saving_a_state_leaves_the_earlier_one(tmp_path, monkeypatch, step):
    earlier = Training()
    earlier.step(0)
    earlier.save(tmp_path, 3)
    with monkeypatch.context() as patch:
        kill_at_rename(patch, 2 if step == 3 else 1)
        with pytest.raises(Killed):
            Training(seed=5).save(tmp_path, step)
    restored = Training(seed=6)
    assert restored.load(tmp_path) == (3, {})
    assert_equal(restored, earlier)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000003"]


def test_the_newest_of_two_states_is_taken(tmp_path, monkeypatch):
    training = Training()
    training.save(tmp_path, 9)
    shutil.copytree(tmp_path / "state" / "step-00000009", tmp_path / "kept")
    training.step(0)
    training.save(tmp_path, 10)
    shutil.move(tmp_path / "kept", tmp_path / "state" / "step-00000009")
    other = Training(seed=2)
    assert other.load(tmp_path) == (10, {})
    assert_equal(other, training)


def test_a_damaged_state_is_refused_and_restores_nothing(tmp_path):
    Training(seed=1).save(tmp_path, 5)
    path = tmp_path / "state" / "step-00000005" / "optimizers.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    training = Training()
    with pytest.raises(InputError, match=r"optimizers.safetensors: its content differs"):
        training.load(tmp_path)
    assert_equal(training, Training())


def test_a_state_of_other_modules_is_refused(tmp_path):
    training = Training()
    training.save(tmp_path, 5)
    policy = {"policy": training.modules["policy"]}
    optimizers = {"policy": training.optimizers["policy"]}
    with pytest.raises(InputError, match=r"critic/.* is not part of the model"):
        checkpoint.load_state(tmp_path, policy, optimizers)


def test_a_state_with_moments_of_an_unknown_parameter_is_refused(tmp_path):
    training = Training()
    training.step(0)
    training.save(tmp_path, 5)
    with pytest.raises(
        InputError, match=r"critic/critic/.* is not a parameter of these optimizers"
    ):
        optimizers = {"policy": training.optimizers["policy"]}
        checkpoint.load_state(tmp_path, training.modules, optimizers)


def test_an_optimizer_of_a_module_that_is_not_saved_is_refused(tmp_path):
    training = Training()
    modules = {"policy": training.modules["policy"]}
    with pytest.raises(ValueError, match=r"optimizer critic holds a parameter .* of no module"):
        checkpoint.save_state(tmp_path, 1, modules, training.optimizers, {})


def test_no_file_of_a_state_is_a_pickle(tmp_path):
    Training().save(tmp_path, 1)
    place = tmp_path / "state" / "step-00000001"
    assert {path.suffix for path in place.iterdir()} == {".json", ".safetensors"}
    assert json.loads((place / "manifest.json").read_text())["step"] == 1
