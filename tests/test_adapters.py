"""Checkpoints that hold adapters only: one trunk for all of them, or a refusal that says why."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from puna.errors import InputError
from puna.model import adapters, checkpoint, folders, lora
from puna.model.heads import RewardModel, ValueModel
from puna.model.lora import LoraConfig
from puna.model.transformer import Transformer
from puna.numerics.optim import OptimConfig, adamw
from puna.text.files import read_json
from puna.text.tokenizer import Tokenizer
from tests.models import ARGS, generator, new_model, normal

CONFIG = LoraConfig(rank=4, alpha=8)
TOKENS = torch.arange(40).view(2, 20)


@pytest.fixture
def folder(base: Path, tiny_tokenizer: Tokenizer) -> Path:
    """An adapter on it."""
    checkpoint.save(base.parent / "chat", adapted(base), tiny_tokenizer, {"stage": "sft"})
    return base.parent / "chat"


def adapted(base: Path, seed: int = 1, config: LoraConfig = CONFIG) -> Transformer:
    """A model on the base whose adapter does something."""
    model, _ = checkpoint.load_tuned(base, config, generator(seed))
    fill(model, seed)
    return model


def fill(model: nn.Module, seed: int) -> None:
    for number, tensor in enumerate(lora.adapter_tensors(model).values()):
        tensor.data.copy_(normal(100 * seed + number, *tensor.shape, scale=0.1))


def pointers(model: nn.Module) -> set[int]:
    """Where the frozen tensors of a model are in memory."""
    return {p.data_ptr() for p in model.parameters() if not p.requires_grad}


def reseal(folder: Path, change) -> None:
    """Change the manifest of a checkpoint, and give it the hashes of its files."""
    record = read_json(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    change(record)
    del record["files"], record["format"]
    folders.seal(folder, **record)


# --- round trips


def test_an_adapter_comes_back_bit_equal_on_its_base(base, folder):
    model, tokenizer = checkpoint.load(folder)
    wanted = adapted(base)
    assert torch.equal(model(TOKENS), wanted(TOKENS))
    assert lora.config_of(model) == CONFIG
    assert tokenizer.vocab_size == 384
    assert checkpoint.meta(folder) == {"stage": "sft"}


def test_the_folder_holds_the_adapter_and_not_the_trunk(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "params.json"),
        *("tokenizer.model", "manifest.json"),
    }
    numbers = sum(t.numel() for t in load_file(folder / "adapter_model.safetensors").values())
    assert numbers < sum(p.numel() for p in new_model().parameters())


@pytest.mark.parametrize("kind", [RewardModel, ValueModel])
def test_a_model_with_a_head_comes_back_with_it(base, tiny_tokenizer, tmp_path, kind):
    model = kind(adapted(base), generator(7))
    checkpoint.save(tmp_path / "judge", model, tiny_tokenizer)
    load = checkpoint.load_reward if kind is RewardModel else checkpoint.load_value
    loaded, _ = load(tmp_path / "judge")
    one, two = model.state_dict(), loaded.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_saving_the_same_adapter_twice_writes_the_same_bytes(base, folder, tiny_tokenizer):
    again = folder.with_name("again")
    checkpoint.save(again, adapted(base), tiny_tokenizer, {"stage": "sft"})
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_trunk_is_quantised_again_when_it_is_loaded(base, tiny_tokenizer, kind):
    model = adapted(base, config=replace(CONFIG, base=kind))
    checkpoint.save(base.parent / "small", model, tiny_tokenizer)
    wanted = model(TOKENS)
    del model
    loaded, _ = checkpoint.load(base.parent / "small")
    assert torch.equal(loaded(TOKENS), wanted)
    assert lora.config_of(loaded) == replace(CONFIG, base=kind)


def test_a_merged_model_is_saved_whole(folder, tiny_tokenizer, tmp_path):
    model = lora.merge(checkpoint.load(folder)[0])
    checkpoint.save(tmp_path / "merged", model, tiny_tokenizer)
    loaded, _ = checkpoint.load(tmp_path / "merged")
    assert lora.config_of(loaded) is None
    assert all(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(TOKENS), model(TOKENS))


# --- one trunk


def test_all_models_that_are_loaded_on_a_base_share_its_memory(base, folder, tiny_tokenizer):
    judge = RewardModel(adapted(base, 2), generator())
    checkpoint.save(base.parent / "judge", judge, tiny_tokenizer)
    policy, _ = checkpoint.load(folder)
    reward, _ = checkpoint.load_reward(base.parent / "judge")
    fresh, _ = checkpoint.load_tuned(base, CONFIG, generator(9))
    assert pointers(policy) == pointers(reward) == pointers(fresh) == pointers(judge)
    assert len(pointers(policy)) == len(list(new_model().parameters()))


def test_the_trunk_is_given_free_with_the_last_model_on_it(base, folder):
    gc.collect()
    before = len(adapters._trunks)
    model, _ = checkpoint.load(folder)
    copy = lora.share(model)
    del model
    gc.collect()
    assert len(adapters._trunks) == before + 1
    del copy
    gc.collect()
    assert len(adapters._trunks) == before


def test_a_base_that_was_replaced_is_read_again(base, tiny_tokenizer):
    kept = adapted(base)
    checkpoint.save(base, new_model(5), tiny_tokenizer)
    model, _ = checkpoint.load_tuned(base, CONFIG, generator())
    assert torch.equal(model(TOKENS), new_model(5)(TOKENS))
    assert not pointers(model) & pointers(kept)


def test_the_base_is_found_where_both_folders_were_moved_together(folder, tmp_path):
    wanted = checkpoint.load(folder)[0](TOKENS)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("base", "chat"):
        (tmp_path / name).rename(moved / name)
    assert torch.equal(checkpoint.load(moved / "chat")[0](TOKENS), wanted)


def test_the_base_is_found_where_the_adapter_alone_was_moved(folder, tmp_path):
    wanted = checkpoint.load(folder)[0](TOKENS)
    (tmp_path / "far" / "away").mkdir(parents=True)
    folder.rename(tmp_path / "far" / "away" / "chat")
    assert torch.equal(checkpoint.load(tmp_path / "far" / "away" / "chat")[0](TOKENS), wanted)


# --- training further


def test_rank_0_gives_a_whole_model_to_train(base):
    model, _ = checkpoint.load_tuned(base, LoraConfig(), generator())
    assert lora.config_of(model) is None
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("config", [LoraConfig(), CONFIG], ids=["rank-0", "same"])
def test_an_adapter_is_trained_further_and_no_second_one_attached(folder, config):
    model, _ = checkpoint.load_tuned(folder, config, generator(3))
    assert torch.equal(model(TOKENS), checkpoint.load(folder)[0](TOKENS))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(
        lora.adapter_tensors(model)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 8}, r"lora\.rank=4, which is trained further; lora\.rank=8 was asked for"),
        ({"alpha": 1.0}, r"lora\.alpha=8\.0, .* lora\.alpha=1\.0"),
        ({"targets": ("wq",)}, r"lora\.targets"),
        ({"base": "nf4"}, r"lora\.base=none, .* lora\.base=nf4"),
    ],
)
def test_settings_other_than_those_of_the_adapter_are_refused(folder, change, said):
    with pytest.raises(InputError, match=rf"chat: holds an adapter with {said}"):
        checkpoint.load_tuned(folder, replace(CONFIG, **change), generator())


def test_an_adapter_is_no_base(folder):
    with pytest.raises(InputError, match=r"holds an adapter, a base model was expected"):
        adapters.trunk(folder, "none", checkpoint.load)


def test_training_an_adapter_leaves_the_trunk_as_it_was(base):
    model, _ = checkpoint.load_tuned(base, CONFIG, generator())
    other, _ = checkpoint.load_tuned(base, CONFIG, generator(1))
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    for _ in range(3):
        model(TOKENS).square().mean().backward()
        optimizer.step()
    assert torch.equal(other(TOKENS), new_model()(TOKENS))
    assert not torch.equal(model(TOKENS), other(TOKENS))


# --- the state of a training


def test_the_state_of_a_training_holds_what_is_trained_and_restores_it(base, tmp_path):
    model = RewardModel(adapted(base), generator(1))
    optimizer = adamw(model, OptimConfig(lr=1e-2))

    def step(model, optimizer, seed):
        tokens = torch.randint(0, 384, (2, 8), generator=generator(seed))
        model(tokens, torch.tensor([7, 7])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(model, optimizer, 0)
    checkpoint.save_state(tmp_path, 1, {"m": model}, {"m": optimizer}, {})
    stored = load_file(tmp_path / "state/step-00000001/modules.safetensors")
    assert set(stored) == {f"m/{n}" for n, p in model.named_parameters() if p.requires_grad}
    other = RewardModel(adapted(base, 5), generator(6))
    moments = adamw(other, OptimConfig(lr=1e-2))
    assert checkpoint.load_state(tmp_path, {"m": other}, {"m": moments}) == (1, {})
    for model_, optimizer_ in ((model, optimizer), (other, moments)):
        step(model_, optimizer_, 1)
    one, two = model.state_dict(), other.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_state_does_not_go_on_with_another_base(base, tiny_tokenizer, tmp_path):
    model = adapted(base)
    optimizer = adamw(model, OptimConfig())
    checkpoint.save_state(tmp_path, 1, {"m": model}, {"m": optimizer}, {})
    checkpoint.save(base, new_model(3), tiny_tokenizer)
    other = adapted(base)
    with pytest.raises(InputError, match=r"was made on another base model"):
        checkpoint.load_state(tmp_path, {"m": other}, {"m": adamw(other, OptimConfig())})


# --- what is refused


def test_an_adapter_whose_base_is_missing_is_refused(base, folder):
    shutil.rmtree(base)
    with pytest.raises(InputError, match=r"chat: its base model .*base is missing"):
        checkpoint.load(folder)


def test_an_adapter_whose_base_has_other_weights_is_refused(base, folder, tiny_tokenizer):
    checkpoint.save(base, new_model(3), tiny_tokenizer)
    with pytest.raises(InputError, match=r"its base model .*base has other weights"):
        checkpoint.load(folder)


def test_an_adapter_with_other_settings_than_its_base_is_refused(folder):
    path = folder / "params.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "norm_eps": 1e-6}))
    reseal(folder, lambda record: None)
    with pytest.raises(InputError, match=r"params\.json: differs from the settings of the base"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_flipped_bit_in_an_adapter_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: its content differs from the SHA-256"):
        checkpoint.load(folder)


@pytest.mark.parametrize("value", [None, "base", {}, {"folder": 3}])
def test_a_manifest_whose_base_is_no_base_is_refused(folder, value):
    reseal(folder, lambda record: record.update(base=value))
    with pytest.raises(InputError, match=r"manifest\.json: base lacks one of folder, path"):
        checkpoint.load(folder)


def test_a_manifest_with_an_unknown_storage_is_refused(folder):
    reseal(folder, lambda record: record["base"].update(stored="int3"))
    with pytest.raises(InputError, match=r"manifest\.json: base\.stored is 'int3'"):
        checkpoint.load(folder)


def test_a_head_of_another_shape_is_refused(base, tiny_tokenizer, tmp_path):
    from safetensors.torch import save_file

    place = tmp_path / "judge"
    checkpoint.save(place, RewardModel(adapted(base), generator(7)), tiny_tokenizer)
    save_file({"head.weight": torch.zeros(1, 8)}, place / "head.safetensors")
    reseal(place, lambda record: None)
    with pytest.raises(InputError, match=r"head\.safetensors: tensor head\.bias is missing"):
        checkpoint.load_reward(place)


def test_adapters_on_a_model_from_nowhere_cannot_be_saved(tmp_path, tiny_tokenizer):
    model = lora.attach(new_model(), CONFIG, generator())
    with pytest.raises(InputError, match=r"base came from no checkpoint; merge it to save"):
        checkpoint.save(tmp_path / "x", model, tiny_tokenizer)


def test_a_reward_adapter_is_no_chat_model(base, tiny_tokenizer, tmp_path):
    checkpoint.save(tmp_path / "judge", RewardModel(adapted(base), generator(7)), tiny_tokenizer)
    with pytest.raises(InputError, match=r"holds a reward model, a transformer model was expected"):
        checkpoint.load(tmp_path / "judge")


def test_a_base_of_several_files_is_known_by_all_of_them(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"2")
    before = adapters.fingerprint(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"33")
    assert adapters.fingerprint(tmp_path) != before
    assert len(before) == 64
    assert adapters.fingerprint(tmp_path / "a.safetensors") == (
        "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )


def test_where_there_is_no_model_there_is_no_fingerprint(tmp_path):
    with pytest.raises(InputError, match=r"there is no model here"):
        adapters.fingerprint(tmp_path / "nowhere")


def test_the_shape_of_the_base_is_kept_in_params(folder):
    assert checkpoint.model_args(folder / "params.json", 384) == ARGS
