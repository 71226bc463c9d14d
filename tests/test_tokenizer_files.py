"""Tokenizer files that are damaged or forged are refused; what is in a GGUF file is rebuilt."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tokenizer_fuzz import WORDS, Maker
from puna.errors import InputError
from puna.text import protobuf
from puna.text.export import to_json
from puna.text.gguf_tokenizer import tokenizer_of
from puna.text.sentence_pieces import Kind, Piece, model_file
from puna.text.tokenizer import open_tokenizer


def opened(folder, content):
    """A model file of this content, opened."""
    (folder / "t.model").write_bytes(content)
    return open_tokenizer(folder / "t.model")


def refused(folder, content, message):
    """Whether a model file is refused, in one line that names it and has the message."""
    with pytest.raises(InputError) as caught:
        opened(folder, content)
    said = str(caught.value)
    assert said.startswith(f"{folder / 't.model'}: ") and "\n" not in said and message in said


def replaced(pieces, token, **changes):
    """The pieces with one of them changed."""
    old = pieces[token]
    new = Piece(**{"text": old.text, "score": old.score, "kind": old.kind, **changes})
    return [*pieces[:token], new, *pieces[token + 1 :]]


def keys(pieces):
    """The keys of a GGUF file for a SentencePiece model."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.text for piece in pieces],
        "tokenizer.ggml.scores": [piece.score for piece in pieces],
        "tokenizer.ggml.token_type": [int(piece.kind) for piece in pieces],
    }


def test_the_pieces_of_a_model_give_the_model_again(tmp_path, tokenizer):
    again = opened(tmp_path, model_file(tokenizer.pieces))
    maker = Maker(0, WORDS, ["tea"])
    texts = [maker.draw(number)[1] for number in range(700)]
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert again.pieces == tokenizer.pieces


@pytest.mark.shared
def test_metas_tokenizer_is_rebuilt_from_the_keys_of_a_gguf_file(llama, tmp_path):
    own = tokenizer_of("model.gguf", keys(llama.pieces))
    maker = Maker(0, WORDS, ["tea"])
    texts = [maker.draw(number)[1] for number in range(2100)]
    rows = llama.encode_batch(texts)
    assert own.encode_batch(texts) == rows
    assert [own.decode(row) for row in rows] == [llama.decode(row) for row in rows]
    again = open_tokenizer(own.save(tmp_path))
    assert (again.path.name, again.sha256) == ("tokenizer.model", own.sha256)


def test_the_space_put_first_can_be_switched_off_by_gguf_only(tiny_tokenizer):
    with pytest.raises(InputError, match=r"^model\.gguf: .*a space put first"):
        tokenizer_of(
            "model.gguf",
            {**keys(tiny_tokenizer.pieces), "tokenizer.ggml.add_space_prefix": False},
        )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scores", [0.0], "scores: 384 numbers were expected"),
        ("scores", ["a"] * 384, "scores: 384 numbers were expected"),
        ("scores", [float("nan")] * 384, "has the score nan"),
        ("scores", [1e300] * 384, "does not fit into four bytes"),
        ("token_type", [9] * 384, "is of type 9"),
        ("token_type", [1] * 384, "the first three pieces are of types"),
        ("tokens", ["a"] * 384, "the control token 0 is named 'a'"),
    ],
)
def test_wrong_lists_of_a_gguf_file_are_refused(tiny_tokenizer, key, value, message):
    with pytest.raises(InputError, match=rf"^model\.gguf: .*{message}"):
        tokenizer_of("model.gguf", {**keys(tiny_tokenizer.pieces), f"tokenizer.ggml.{key}": value})


def test_ids_out_of_order_are_refused(tmp_path, tiny_tokenizer):
    first, second, third, *rest = tiny_tokenizer.pieces
    refused(tmp_path, model_file([second, first, third, *rest]), "first three pieces are of types")
    swapped = model_file([first, third, second, *rest])
    refused(tmp_path, swapped, "are (0, 2, 1, -1), expected (0, 1, 2, -1)")


def test_a_piece_that_stands_twice_is_refused(tmp_path, tiny_tokenizer):
    twice = replaced(tiny_tokenizer.pieces, 383, text=tiny_tokenizer.pieces[300].text)
    refused(tmp_path, model_file(twice), "stands 2 times, expected once")


def test_a_control_token_named_like_a_word_is_refused(tmp_path, tiny_tokenizer):
    for name in ("a", "hello", "<", "", "\u2581a", "<a"):
        named = replaced(tiny_tokenizer.pieces, 1, text=name)
        refused(tmp_path, model_file(named), f"the control token 1 is named {name!r}")


def test_missing_and_false_bytes_are_refused(tmp_path, tiny_tokenizer):
    pieces = tiny_tokenizer.pieces
    [token] = [i for i, piece in enumerate(pieces) if piece.text == "<0x41>"]
    gone = replaced(pieces, token, text="no byte", kind=Kind.NORMAL)
    refused(tmp_path, model_file(gone), "the byte <0x41> is missing")
    for name in ("<0x-1>", "<0x100>", "<0x4g>", "a"):
        refused(tmp_path, model_file(replaced(pieces, token, text=name)), f"the byte {name!r}")
    none = [p if p.kind != Kind.BYTE else Piece(p.text, 0.0, Kind.NORMAL) for p in pieces]
    refused(tmp_path, model_file(none), "")


def test_rules_that_change_text_are_refused_before_they_are_read(tmp_path, tiny_tokenizer):
    rules = protobuf.field(3, protobuf.field(2, b"\xff" * 64))
    refused(tmp_path, tiny_tokenizer.content + rules, "does not give text back unchanged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x0a" + b"\xff" * 9 + b"\x01" + b"a", "18446744073709551615 bytes, 1 are left"),
        (b"\x0a\xff\xff\xff\xff\x07a", "a value of 2147483647 bytes, 1 are left"),
        (b"\xff" * 40, "a number without an end"),
        (b"\x0b" * 100_000, "a field of wire type 3"),
        (b"\x0a\x00" * 100_000, "the first three pieces are of types [1, 1, 1]"),
        (b"\x08\x01", "a number 1 where a message was expected"),
        (b"\x0a\x03\x0a\x01\xff", "the piece b'\\xff' is not text"),
        (b"\x0a\x04\x0a\x01a\x10", "a number without an end"),
        (b"\x0a\x05\x0a\x01a\x10\x01", "a piece without text and score"),
        (b"PK\x03\x04", ""),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, message):
    refused(tmp_path, content, message)


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "t.model", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="has more than 67108864 bytes"):
        open_tokenizer(tmp_path / "t.model")
    (tmp_path / "t.model").rename(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="has more than 67108864 bytes"):
        open_tokenizer(tmp_path / "tokenizer.json")


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_damaged_byte_gives_a_tokenizer_or_an_input_error(tmp_path_factory, tiny_tokenizer,
                                                            place, flip):  # fmt: skip
    content = bytearray(tiny_tokenizer.content)
    content[place % len(content)] ^= flip
    try:
        own = opened(tmp_path_factory.getbasetemp(), bytes(content))
    except InputError:
        return
    assert min(own.encode("a <s> </s> <unk> tea")) > 2


@given(
    st.lists(st.tuples(st.integers(1, 2**28), st.integers(-(2**63), 2**63 - 1) | st.binary())),
)
def test_fields_come_back_as_they_were_written(rows):
    message = b"".join(protobuf.field(number, value) for number, value in rows)
    unsigned = [(n, v if isinstance(v, bytes) else v % 2**64) for n, v in rows]
    assert list(protobuf.fields(message)) == unsigned


def test_a_number_that_is_not_whole_is_stored_in_four_bytes():
    [(number, value)] = protobuf.fields(protobuf.field(2, -1.5))
    assert (number, value, protobuf.single(value)) == (2, struct.pack("<f", -1.5), -1.5)


def test_a_file_of_another_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.model, \.json or \.gguf"):
        open_tokenizer(tmp_path / "tokenizer.bin")


def test_a_folder_gives_its_tokenizer(tmp_path, tiny_tokenizer):
    with pytest.raises(InputError, match=r"tokenizer\.model: cannot be read"):
        open_tokenizer(tmp_path)
    assert open_tokenizer(tiny_tokenizer.save(tmp_path).parent).sha256 == tiny_tokenizer.sha256


def llama_json(tokenizer, **changes):
    """A tokenizer.json as transformers writes it for Llama 2, with special tokens declared."""
    spec = to_json(tokenizer)
    names = ["<unk>", "<s>", "</s>"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec["added_tokens"] = [
        {"id": token, "content": name, **flags, "special": True} for token, name in enumerate(names)
    ]
    return {**spec, **changes}


METASPACE = {
    "type": "Metaspace",
    "replacement": "\u2581",
    "prepend_scheme": "first",
    "split": False,
}


@pytest.mark.parametrize("changes", [{}, {"normalizer": None, "pre_tokenizer": METASPACE}])
def test_llama_s_tokenizer_json_becomes_its_sentencepiece_model(
    tmp_path, tagless_tokenizer, changes
):
    spec = llama_json(tagless_tokenizer, **changes)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    own = open_tokenizer(tmp_path / "tokenizer.json")
    maker = Maker(0, WORDS, ["tea"])
    texts = [maker.draw(number)[1] for number in range(700)]
    assert own.encode_batch(texts) == tagless_tokenizer.encode_batch(texts)
    assert (own.file_name, own.format, own.eos_id) == ("tokenizer.model", "llama2", 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, "normalizer: is not Llama's"),
        ({"normalizer": None}, "normalizer: is not Llama's"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre_tokenizer is none that Puna knows"),
        (
            {"pre_tokenizer": {"pretokenizers": [{"pattern": {"Regex": "(a+)+$"}}]}},
            "the pre_tokenizer is none that Puna knows",
        ),
    ],
)
def test_a_tokenizer_json_that_is_not_quite_llama_s_is_refused(
    tmp_path, tagless_tokenizer, changes, message
):
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama_json(tagless_tokenizer, **changes)))
    with pytest.raises(InputError, match=message):
        open_tokenizer(tmp_path / "tokenizer.json")
