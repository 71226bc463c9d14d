"""The exported tokenizer.json against SentencePiece on strange strings, and read back by us."""

import json
from pathlib import Path

import pytest
import tokenizers
from conftest import SENTENCES
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tokenizer_fuzz import WORDS, Maker, differs
from puna.errors import InputError
from puna.text.export import export_json
from puna.text.sentence_pieces import Kind, Piece, SentencePieceTokenizer, model_file
from puna.text.tokenizer import open_tokenizer, train_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def exported(tokenizer, folder):
    """The JSON of a tokenizer as the library reads it."""
    export_json(tokenizer, folder / "tokenizer.json")
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def strings(tokenizer, count, seed=0):
    """Strings of every kind."""
    pieces = [str(tokenizer.piece(token)) for token in range(tokenizer.vocab_size)]
    maker = Maker(seed, WORDS, pieces)
    return [maker.draw(number)[1] for number in range(count)]


@pytest.fixture(scope="session")
def spaced_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    """A tokenizer with pieces of blanks alone, and symbols of several kinds."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    indented = [" " * (2 * n) + text + "  " * n for n in range(9) for text in SENTENCES]
    return train_tokenizer(indented, path, 430, ["[INST]", "[/INST]", "a\u2581b", "ab", "b"])


@pytest.fixture(params=["tiny", "tagless", "spaced"])
def source(request, tiny_tokenizer, tagless_tokenizer, spaced_tokenizer):
    """Tokenizers with symbols for tags, without, and with blanks."""
    return {"tiny": tiny_tokenizer, "tagless": tagless_tokenizer, "spaced": spaced_tokenizer}[
        request.param
    ]


def test_the_export_encodes_and_decodes_strange_strings_as_sentencepiece(source, tmp_path):
    other = exported(source, tmp_path)
    assert [t for t in strings(source, 2100) if differs(source, other, t)] == []


@pytest.mark.shared
def test_the_export_of_metas_tokenizer_does_so_too(llama, tmp_path):
    other = exported(llama, tmp_path)
    assert [t for t in strings(llama, 2100) if differs(llama, other, t)] == []


@pytest.mark.shared
@pytest.mark.parametrize("blank", [" ", "\u2581"])
def test_runs_of_blanks_of_every_length_are_cut_alike(llama, tmp_path, blank):
    other = exported(llama, tmp_path)
    runs = [
        first + blank * n + last for n in range(1, 100) for first in ("", "a") for last in ("", "b")
    ]
    assert [text for text in runs if differs(llama, other, text)] == []


def test_runs_of_blanks_are_pieces_here(spaced_tokenizer):
    blanks = [p.text for p in spaced_tokenizer.pieces if set(p.text) == {"\u2581"}]
    assert len(blanks) > 3


@given(text=TEXT)
def test_any_text_is_encoded_alike(tmp_path_factory, tiny_tokenizer, text):
    path = tiny_tokenizer.path.with_name("tokenizer.json")
    if not path.exists():
        export_json(tiny_tokenizer, path)
    other = tokenizers.Tokenizer.from_file(str(path))
    assert differs(tiny_tokenizer, other, text) is None


@pytest.mark.parametrize("name", ["</s>", "<s>", "<unk>", "<0x0A>", "<0x00>"])
def test_a_control_token_s_name_between_symbols_is_text(tiny_tokenizer, tmp_path, name):
    other = exported(tiny_tokenizer, tmp_path)
    ids = other.encode(f"[INST]{name}[/INST]{name}", add_special_tokens=False).ids
    assert min(ids) >= 3
    assert other.decode(ids) == f"[INST]{name}[/INST]{name}"


def test_the_begin_id_is_put_first_by_default(tiny_tokenizer, tmp_path):
    other = exported(tiny_tokenizer, tmp_path)
    assert other.encode("tea").ids == tiny_tokenizer.encode("tea", bos=True)


def test_the_export_is_read_back_as_the_same_tokenizer(source, tmp_path):
    export_json(source, tmp_path / "tokenizer.json")
    again = open_tokenizer(tmp_path / "tokenizer.json")
    texts = strings(source, 700, seed=1)
    assert again.encode_batch(texts) == source.encode_batch(texts)
    assert again.control == source.control


@pytest.mark.shared
def test_transformers_reads_the_export_and_encodes_alike(llama, tmp_path):
    transformers = pytest.importorskip("transformers")
    export_json(llama, tmp_path / "tokenizer.json")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), split_special_tokens=True, **names
    )
    for text in strings(llama, 280, seed=2):
        ids = llama.encode(text)
        assert fast.encode(text, add_special_tokens=False) == ids
        assert fast.decode([1, *ids, 2], skip_special_tokens=True) == llama.decode(ids)


def small(*pieces: Piece) -> list[Piece]:
    """Llama's first 259 pieces and these."""
    first = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL)]
    first += [Piece("</s>", 0.0, Kind.CONTROL)]
    spelled = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    letters = [Piece(letter, -1000.0 - i, Kind.NORMAL) for i, letter in enumerate("\u2581abc")]
    return [*first, *spelled, *letters, *pieces]


def made(folder: Path, *pieces: Piece) -> SentencePieceTokenizer:
    (folder / "t.model").write_bytes(model_file(small(*pieces)))
    return SentencePieceTokenizer(folder / "t.model")


def test_two_pieces_with_one_score_are_refused_because_the_leftmost_would_win(tmp_path):
    twins = made(tmp_path, Piece("ab", -1.0, Kind.NORMAL), Piece("bc", -1.0, Kind.NORMAL))
    with pytest.raises(InputError, match=r"'ab' and 'bc' have the same score -1"):
        export_json(twins, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5, 6), (2, 4, 8), (2, 3, 5), (2, 4, 6, 7)])
def test_any_set_of_blank_pieces_is_cut_alike(tmp_path, sizes):
    blanks = [Piece("\u2581" * size, -9.0, Kind.NORMAL) for size in sizes]
    tokenizer = made(tmp_path, *blanks, Piece("\u2581a", -1.0, Kind.NORMAL))
    other = exported(tokenizer, tmp_path)
    texts = [" " * n + tail for n in range(40) for tail in ("", "a", "b", "b a  c   ")]
    assert [text for text in texts if differs(tokenizer, other, text)] == []


def test_the_better_score_and_not_the_earlier_id_decides(tmp_path):
    ordered = made(tmp_path, Piece("ab", -2.0, Kind.NORMAL), Piece("bc", -1.0, Kind.NORMAL))
    other = exported(ordered, tmp_path)
    assert [ordered.piece(i) for i in other.encode("abc", add_special_tokens=False).ids] == [
        " ", "a", "bc"]  # fmt: skip


def test_no_token_is_declared_special(tiny_tokenizer, tmp_path):
    export_json(tiny_tokenizer, tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"] == []
