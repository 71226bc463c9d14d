"""A tokenizer as GGUF's keys: every token, score, merge, type and special id."""

import dataclasses
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers

from puna.errors import InputError
from puna.model.gguf import write_gguf
from puna.recipes import convert
from puna.text.gguf import Field, header_bytes, read_header, read_metadata
from puna.text.gguf_vocabulary import vocabulary
from puna.text.tokenizer import open_tokenizer
from puna.text.tokens import Tokenizer
from tests.conftest import SENTENCES
from tests.models import ARGS
from tests.test_byte_pairs import keys, smollm2_file, trained
from tests.test_gguf import rewrite, source
from tests.test_tokenizer_files import llama_json


def values(tokenizer: Tokenizer, size: int) -> dict[str, object]:
    """The keys without their first words, and their values."""
    fields = vocabulary(tokenizer, size)
    return {key.removeprefix("tokenizer.ggml."): field.value for key, field in fields.items()}


def test_a_sentencepiece_model_keeps_its_tokens_scores_and_types(tiny_tokenizer):
    found = values(tiny_tokenizer, 384)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer.path))
    assert found["model"] == "llama"
    assert found["tokens"] == [processor.id_to_piece(token) for token in range(384)]
    assert found["scores"] == [processor.get_score(token) for token in range(384)]
    types = found["token_type"]
    assert types[:3] == [2, 3, 3]
    assert [kind == 6 for kind in types] == [processor.is_byte(token) for token in range(384)]
    tag = processor.piece_to_id("[INST]")
    assert types[tag] == 4 and types[383] == 1  # a symbol given to the trainer, a learned piece


def test_the_special_ids_of_a_sentencepiece_model_are_llamas(tiny_tokenizer):
    found = values(tiny_tokenizer, 384)
    ids = {key: value for key, value in found.items() if key.endswith("_id")}
    assert ids == {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    assert found["add_bos_token"] is True and found["add_space_prefix"] is True


def test_ids_that_the_tokenizer_lacks_become_unused_tokens(tiny_tokenizer):
    found = values(tiny_tokenizer, 386)
    assert found["tokens"][384:] == ["[PAD384]", "[PAD385]"]
    assert found["token_type"][384:] == [5, 5]
    assert len(found["scores"]) == 386


def test_a_tokenizer_with_too_many_tokens_is_refused(tiny_tokenizer):
    with pytest.raises(InputError, match="has 384 tokens, the model has embeddings of 383"):
        vocabulary(tiny_tokenizer, 383)


def test_a_llama_tokenizer_json_keeps_its_ids_as_gguf(tmp_path, tagless_tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(llama_json(tagless_tokenizer)))
    found = values(open_tokenizer(path), 420)
    own = values(tagless_tokenizer, 420)
    assert {k: v for k, v in found.items() if k != "scores"} == {
        k: v for k, v in own.items() if k != "scores"
    }
    (tmp_path / "a.gguf").write_bytes(header_bytes(vocabulary(open_tokenizer(path), 420), {})[0])
    again = open_tokenizer(tmp_path / "a.gguf")
    assert again.encode_batch(SENTENCES) == tagless_tokenizer.encode_batch(SENTENCES)


def byte_level(path: Path, steps) -> Path:
    """A byte-level tokenizer.json with the given steps before its merges."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken("<|end_of_text|>", special=True)]
    made.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
        ),
    )
    made.add_tokens(["<tool>"])
    made.save(str(path))
    return path


def test_a_byte_level_tokenizer_keeps_its_tokens_and_merges(tmp_path):
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    path = byte_level(tmp_path / "tokenizer.json", steps)
    found = values(open_tokenizer(path), 310)
    made = tokenizers.Tokenizer.from_file(str(path))
    assert (found["model"], found["pre"]) == ("gpt2", "smollm")
    assert found["tokens"][:301] == [made.id_to_token(token) for token in range(301)]
    merges = json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]
    assert found["merges"] == [" ".join(pair) for pair in merges] and len(merges) > 20
    assert [found["token_type"][token] for token in (0, 1, 300, 301)] == [3, 1, 4, 5]
    assert found["eos_token_id"] == 0 and "bos_token_id" not in found
    assert found["add_bos_token"] is False


@pytest.mark.parametrize(
    ("format", "pre", "begins", "ids"),
    [  # of the tokens that `trained` has; the last of ids is the padding
        ("smollm2", "smollm", False, (1, 2, 0, 2)),
        ("chatml", "gpt-2", False, (1, 2, 0, None)),
        ("llama3", "llama-bpe", True, (0, 4, None, None)),
        ("plain", "gpt-2", False, (0, 0, 0, None)),
    ],
)
def test_the_special_ids_are_those_of_the_prompt_format(tmp_path, format, pre, begins, ids):
    trained(format).save(str(tmp_path / "tokenizer.json"))
    found = values(open_tokenizer(tmp_path / "tokenizer.json"), 400)
    roles = ("bos", "eos", "unknown", "padding")
    assert tuple(found.get(f"{role}_token_id") for role in roles) == ids
    assert (found["pre"], found["add_bos_token"]) == (pre, begins)


def test_a_prompt_format_chosen_by_hand_ends_a_text_in_its_way(tmp_path):
    trained("smollm2").save(str(tmp_path / "tokenizer.json"))
    assert values(open_tokenizer(tmp_path / "tokenizer.json", "plain"), 400)["eos_token_id"] == 0


def test_words_taken_whole_are_refused_where_llama_cpp_does_not_know_them(tmp_path):
    spec = json.loads(trained("chatml").to_str())
    spec["model"]["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match=r"tokenizer\.json: takes a word that is a piece"):
        vocabulary(open_tokenizer(tmp_path / "tokenizer.json"), 400)


# --- GGUF, a checkpoint, GGUF


STRINGS = {"tokens", "merges"}
SMOLLM2 = {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}
LLAMA3 = {"bos": 0, "eos": 4}


def field(name: str, value: object) -> Field:
    """A key's value in the type that llama.cpp's converter gives it."""
    if isinstance(value, list):
        return Field("string[]" if name in STRINGS else "int32[]", value)
    kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "uint32"
    return Field(kind, value)


@pytest.mark.parametrize(
    ("format", "pre", "ids"),
    [("smollm2", "smollm", SMOLLM2), ("llama3", "llama-bpe", LLAMA3)],
)
def test_a_byte_level_vocabulary_survives_a_checkpoint(tmp_path, format, pre, ids):
    first = tmp_path / "first.gguf"
    theirs = keys(trained(format), pre) | {
        "tokenizer.ggml.add_bos_token": format == "llama3",
        "tokenizer.ggml.add_space_prefix": False,
        **{f"tokenizer.ggml.{role}_token_id": token for role, token in ids.items()},
    }
    fields = {key: field(key.split(".")[-1], value) for key, value in theirs.items()}
    write_gguf(source(dataclasses.replace(ARGS, vocab_size=400)), first, "F32")
    rewrite(first, lambda old, tensors: old.update(fields))
    convert.main(convert.Config(src=str(first), dst=tmp_path / "model"))
    last = tmp_path / "last.gguf"
    convert.main(convert.Config(src=str(tmp_path / "model"), dst=last, to="gguf"))
    assert tokenizer_fields(last) == fields


def test_smollm2s_vocabulary_survives_a_checkpoint(tmp_path):
    path = smollm2_file()
    saved = open_tokenizer(path).save(tmp_path)
    theirs = tokenizer_fields(path)
    del theirs["tokenizer.chat_template"]
    ids = {role: theirs[f"tokenizer.ggml.{role}_token_id"].value for role in SMOLLM2}
    assert ids == SMOLLM2
    assert vocabulary(open_tokenizer(saved), 49152) == theirs


def tokenizer_fields(path: Path) -> dict[str, Field]:
    fields = read_header(path).fields
    return {key: fields[key] for key in fields if key.startswith("tokenizer.")}


def test_a_gguf_file_of_any_name_gives_its_tokenizer(tmp_path, tiny_tokenizer):
    content, _ = header_bytes(vocabulary(tiny_tokenizer, 384), {})
    for name in ("model.bin", "model", "tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_bytes(content)
        assert open_tokenizer(tmp_path / name).encode("tea") == tiny_tokenizer.encode("tea")


def test_the_keys_of_a_gguf_file_of_any_name_are_taken_over(tmp_path, tiny_tokenizer):
    path, other = tmp_path / "blob", tmp_path / "b.gguf"
    write_gguf(source(tokenizer=tiny_tokenizer.path), path, "F32")
    write_gguf(source(tokenizer=path), other, "F32")
    assert tokenizer_fields(other) == tokenizer_fields(path)
    assert read_metadata(other)["tokenizer.ggml.model"] == "llama"


# --- what a damaged file gives


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", "{", "1", '{"model": {}}'),
        '{"model": {"vocab": {"a": -1}, "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": 1000000000000}, "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": 0}, "merges": [1]}, "added_tokens": [3]}',
    ],
)
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        write_gguf(source(tokenizer=tmp_path / "tokenizer.json"), tmp_path / "a.gguf", "F32")


@pytest.mark.shared
def test_metas_own_tokenizer_is_written_with_the_types_that_sentencepiece_tells(llama):
    fields = vocabulary(llama, 32000)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(llama.path))
    kinds = fields["tokenizer.ggml.token_type"].value
    assert len(kinds) == 32000
    for kind, asked in {
        2: processor.is_unknown,
        3: processor.is_control,
        5: processor.is_unused,
        6: processor.is_byte,
    }.items():
        assert [found == kind for found in kinds] == [asked(token) for token in range(32000)]
    assert fields["tokenizer.ggml.tokens"].value[29871] == "\u2581"
    assert fields["tokenizer.ggml.scores"].value[259:262] == [-1e9, -1.0, -2.0]


@pytest.mark.parametrize("content", [b"", b"\x0a\xff\xff", b"not a model"])
def test_a_damaged_sentencepiece_model_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        write_gguf(source(tokenizer=tmp_path / "tokenizer.model"), tmp_path / "a.gguf", "F32")
