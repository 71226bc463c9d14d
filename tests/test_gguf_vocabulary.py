"""A tokenizer as GGUF's keys: every token, score, merge and type of token."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers

from puna.errors import InputError
from puna.text.gguf import Field
from puna.text.gguf_vocabulary import vocabulary
from tests.conftest import SENTENCES


def test_a_sentencepiece_model_keeps_its_tokens_scores_and_types(tmp_path, tiny_tokenizer):
    fields = vocabulary(tiny_tokenizer.path, 384)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer.path))
    found = {key.removeprefix("tokenizer.ggml."): field.value for key, field in fields.items()}
    assert found["tokens"] == [processor.id_to_piece(token) for token in range(384)]
    assert found["scores"] == [processor.get_score(token) for token in range(384)]
    types = found["token_type"]
    assert types[:3] == [2, 3, 3]
    assert [kind == 6 for kind in types] == [processor.is_byte(token) for token in range(384)]
    tag = processor.piece_to_id("[INST]")
    assert types[tag] == 4 and types[383] == 1  # a symbol given to the trainer, a learned piece


def test_ids_that_the_tokenizer_lacks_become_unused_tokens(tiny_tokenizer):
    fields = vocabulary(tiny_tokenizer.path, 386)
    assert fields["tokenizer.ggml.tokens"].value[384:] == ["[PAD384]", "[PAD385]"]
    assert fields["tokenizer.ggml.token_type"].value[384:] == [5, 5]
    assert len(fields["tokenizer.ggml.scores"].value) == 386


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
    fields = vocabulary(path, 310)
    found = {key.removeprefix("tokenizer.ggml."): field.value for key, field in fields.items()}
    made = tokenizers.Tokenizer.from_file(str(path))
    assert (found["model"], found["pre"]) == ("gpt2", "smollm")
    assert found["tokens"][:301] == [made.id_to_token(token) for token in range(301)]
    merges = json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]
    assert found["merges"] == [" ".join(pair) for pair in merges] and len(merges) > 20
    assert [found["token_type"][token] for token in (0, 1, 300, 301)] == [3, 1, 4, 5]
    assert found["eos_token_id"] == 0 and "bos_token_id" not in found
    assert found["add_bos_token"] is False


def test_the_configuration_beside_a_tokenizer_names_its_ends(tmp_path):
    path = byte_level(tmp_path / "tokenizer.json", [pre_tokenizers.ByteLevel(False)])
    config = {"bos_token": "<tool>", "eos_token": {"content": "<tool>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    fields = vocabulary(path, 310)
    assert fields["tokenizer.ggml.pre"].value == "gpt-2"
    assert fields["tokenizer.ggml.bos_token_id"] == Field("uint32", 300)
    assert fields["tokenizer.ggml.eos_token_id"] == Field("uint32", 300)


def test_a_way_to_cut_words_that_llama_cpp_has_no_name_for_is_refused(tmp_path):
    steps = [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    with pytest.raises(InputError, match=r"tokenizer\.json: cuts text into words in a way"):
        vocabulary(byte_level(tmp_path / "tokenizer.json", steps), 310)


def test_pieces_in_a_tokenizer_json_are_scored_by_their_merges(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "a", "b", "\u2581", "ab", "\u2581ab"]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>"}
    model |= {"vocab": {token: n for n, token in enumerate(tokens)}}
    model |= {"merges": ["a b", "\u2581 ab"]}
    added = [{"id": n, "content": tokens[n], "special": True} for n in range(3)]
    settings = {"model": model, "added_tokens": added, "pre_tokenizer": None}
    settings["normalizer"] = {"type": "Prepend", "prepend": "\u2581"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    found = {key[15:]: field.value for key, field in vocabulary(path, 9).items()}
    assert found["model"] == "llama" and found["add_space_prefix"] is True
    assert found["token_type"] == [2, 3, 3, 6, 1, 1, 1, 1, 1]
    assert found["scores"][7:] == [0.0, -1.0]
    assert (found["bos_token_id"], found["eos_token_id"]) == (1, 2)


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
        vocabulary(tmp_path / "tokenizer.json", 10)


@pytest.mark.shared
def test_metas_own_tokenizer_is_written_with_the_types_that_sentencepiece_tells(llama):
    fields = vocabulary(llama.path, 32000)
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
        vocabulary(tmp_path / "tokenizer.model", 10)
