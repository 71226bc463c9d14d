"""Where answers end: stop strings over tokens, ids, tags; nothing is shown too early."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.engine.stops import Stops
from puna.text.completion import SamplingParams
from puna.text.template import before_tag, tag_names
from puna.text.tokenizer import Tokenizer, open_tokenizer
from tests.test_byte_pairs import trained

SEEDS = st.integers(0, 2**31)
TEXTS = ("a", "b", "aab", "ab", "ba", "\n\n", " 🙂", "é", "\ufffd", "coffee", "fee", "e, ", ".")


@pytest.fixture(scope="module", params=["pieces", "bytes", "turns"])
def tokenizer(request, tmp_path_factory, tagless_tokenizer) -> Tokenizer:
    """Llama 2's kind of tokenizer, and two of byte-level BPE, plain and with turns."""
    if request.param == "pieces":
        return tagless_tokenizer
    path: Path = tmp_path_factory.mktemp("stops") / "tokenizer.json"
    path.write_text(trained("llama3" if request.param == "bytes" else "chatml").to_str())
    return open_tokenizer(path)


def random_ids(tokenizer: Tokenizer, seed: int) -> list[int]:
    """Text, lone bytes of characters, tags and any tokens at all, without the end token."""
    chance, ids = random.Random(seed), []
    names = (*tag_names(tokenizer), *TEXTS)
    for _ in range(chance.randrange(1, 30)):
        kind = chance.random()
        if kind < 0.5:
            text = chance.choice(names if chance.random() < 0.2 else TEXTS)
            spell = chance.choice([tokenizer.encode_continuation, tokenizer.encode_bytes])
            ids += spell(text)
        elif kind < 0.7:
            ids += tokenizer.encode_bytes("é🙂ab")[chance.randrange(4) : chance.randrange(3, 8)]
        else:
            ids.append(chance.randrange(tokenizer.vocab_size))
    return [id for id in ids if id != tokenizer.eos_id]


def shown(stops: Stops, ids: list[int]) -> list[str]:
    """The pieces that are shown of an answer, `flush` at its end."""
    pieces = []
    for id in ids:
        pieces.append(stops.push(id))
        if stops.finish:
            return pieces
    return [*pieces, stops.flush()]


def cut(text: str, stop: tuple[str, ...], tags: tuple[str, ...]) -> tuple[str, str | None]:
    """The text before the first stop string or tag to be complete, and the first stop string."""
    until, reason = None, None
    for end in range(1, len(text) + 1):
        found = [name for name in (*stop, *tags) if text[:end].endswith(name)]
        if found and until is None:
            until = end - max(map(len, found))
        if stopping := [name for name in found if name in stop]:
            reason = max(stopping, key=len)
            break
    return text[:until], reason


@given(seed=SEEDS, stop=st.lists(st.sampled_from(TEXTS), max_size=3, unique=True))
def test_the_pieces_joined_are_the_text_before_the_first_stop(tokenizer, seed, stop):
    ids, stop = random_ids(tokenizer, seed), tuple(stop)
    stops = Stops(tokenizer, SamplingParams(stop=stop))
    text, reason = cut(tokenizer.decode(ids), stop, tag_names(tokenizer))
    assert "".join(shown(stops, ids)) == text
    assert stops.reason == reason


@given(seed=SEEDS)
def test_without_stop_strings_the_text_is_what_the_template_says_a_model_said(tokenizer, seed):
    ids = random_ids(tokenizer, seed)
    text = "".join(shown(Stops(tokenizer, SamplingParams()), ids))
    assert text.strip() == before_tag(tokenizer.decode(ids), tokenizer)


@given(seed=SEEDS, stop=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True))
def test_only_what_may_become_a_stop_is_held_back(tokenizer, seed, stop):
    ids, names = random_ids(tokenizer, seed), (*stop, *tag_names(tokenizer))
    stops, out = Stops(tokenizer, SamplingParams(stop=tuple(stop))), ""
    stream = tokenizer.stream()
    text = ""
    for id in ids:
        out, text = out + stops.push(id), text + stream.push(id)
        if stops.silent:
            break
        held = text.removeprefix(out)
        assert text.startswith(out)
        assert not held or any(name.startswith(held) for name in names)


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_bytes(text)


def test_an_end_token_ends_the_answer_and_shows_what_was_held(tokenizer):
    stops = Stops(tokenizer, SamplingParams(stop=("abc",)))
    assert [stops.push(id) for id in spelled(tokenizer, "xab")] == ["x", "", ""]
    assert (stops.push(tokenizer.eos_id), stops.finish, stops.reason) == ("ab", "stop", None)
    assert stops.flush() == ""


def test_an_ignored_end_token_is_no_end(tokenizer):
    stops = Stops(tokenizer, SamplingParams(ignore_eos=True))
    ids = [*spelled(tokenizer, "a"), tokenizer.eos_id, *spelled(tokenizer, "b")]
    assert "".join(shown(stops, ids)) == "ab"
    assert stops.finish is None


def test_a_stop_id_ends_the_answer_and_is_not_shown(tokenizer):
    [a, b] = spelled(tokenizer, "ab")
    stops = Stops(tokenizer, SamplingParams(stop_ids=(b,)))
    assert [stops.push(a), stops.push(b)] == ["a", ""]
    assert (stops.finish, stops.reason) == ("stop", b)


def test_the_name_of_an_end_token_in_text_is_no_end(tokenizer):
    stops = Stops(tokenizer, SamplingParams())
    shown(stops, spelled(tokenizer, "a</s><|im_end|><|eot_id|>b"))
    assert stops.finish is None


def test_a_stop_string_before_min_tokens_is_text(tokenizer):
    stops = Stops(tokenizer, SamplingParams(stop=("ab",), min_tokens=4))
    assert "".join(shown(stops, spelled(tokenizer, "abxabx"))) == "abx"
    assert stops.reason == "ab"


def test_a_tag_ends_what_is_shown_and_a_later_stop_string_the_answer(tokenizer):
    tag = tag_names(tokenizer)[0]
    stops = Stops(tokenizer, SamplingParams(stop=("END",)))
    ids = spelled(tokenizer, f"hello {tag} more END")
    assert "".join(shown(stops, ids)) == "hello "
    assert (stops.finish, stops.reason, stops.silent) == ("stop", "END", True)


def test_a_token_after_the_end_is_refused(tokenizer):
    stops = Stops(tokenizer, SamplingParams())
    stops.push(tokenizer.eos_id)
    with pytest.raises(ValueError, match="has ended"):
        stops.push(3)


def test_half_a_character_at_the_end_is_one_sign(tokenizer):
    stops = Stops(tokenizer, SamplingParams())
    assert [stops.push(id) for id in spelled(tokenizer, "é")[:1]] == [""]
    assert stops.flush() == "\ufffd"
