"""Answers under a grammar: of a model that knows nothing, and with grammars that mean harm."""

import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.engine.drawing import draw
from puna.engine.grammar import KEPT, MAX_DEPTH, Grammars
from puna.errors import InputError
from puna.text.completion import Grammar, SamplingParams
from puna.text.tokenizer import Tokenizer, open_tokenizer
from tests.models import normal
from tests.rows import FakeRow
from tests.test_byte_pairs import trained

ORDER = {
    "type": "object",
    "properties": {
        "drink": {"enum": ["tea", "coffee", "café 🙂"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 3},
        "milk": {"type": ["boolean", "null"]},
        "notes": {"type": "array", "items": {"$ref": "#/$defs/note"}, "maxItems": 2},
    },
    "required": ["drink", "size", "milk", "notes"],
    "additionalProperties": False,
    "$defs": {"note": {"type": "string", "maxLength": 5}},
}


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def tokenizer(request, tmp_path_factory, tagless_tokenizer) -> Tokenizer:
    """Llama 2's kind of tokenizer, and byte-level BPE."""
    if request.param == "pieces":
        return tagless_tokenizer
    path: Path = tmp_path_factory.mktemp("grammar") / "tokenizer.json"
    path.write_text(trained("chatml").to_str())
    return open_tokenizer(path)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer)


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def answer(grammars: Grammars, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str | None:
    """What a model of random logits says under a grammar; None if it says too much."""
    params = SamplingParams(temperature=1.0, top_p=1.0)
    row = FakeRow(params, grammar=grammars.compile(grammar), seed=seed)
    for step in range(200):
        logits = normal(1000 * seed + step, 1, tokenizer.vocab_size, scale=2.0)
        [token] = draw(logits, [row], tokenizer.eos_id)
        if token.id == tokenizer.eos_id:
            return tokenizer.decode(row.ids)
        assert token.id not in tokenizer.control.values()
        row.ids.append(token.id)
        assert row.grammar
        row.grammar.advance(token.id)
    return None


def test_answers_are_json_that_obeys_the_schema(grammars, tokenizer):
    found = [answer(grammars, tokenizer, schema(ORDER), seed) for seed in range(20)]
    orders = [json.loads(text) for text in found if text is not None]
    assert len(orders) >= 15
    for order in orders:
        assert list(order) == ["drink", "size", "milk", "notes"]
        assert order["drink"] in ORDER["properties"]["drink"]["enum"]
        assert type(order["size"]) is int and 1 <= order["size"] <= 3
        assert order["milk"] in (True, False, None)
        assert len(order["notes"]) <= 2
        assert all(isinstance(note, str) and len(note) <= 5 for note in order["notes"])


def test_json_has_no_blanks_between_its_parts(grammars, tokenizer):
    found = [answer(grammars, tokenizer, schema(ORDER), seed) for seed in range(10)]
    for text in found:
        if text is not None:
            assert not re.search(r"\s", re.sub(r'"(\\.|[^"\\])*"', "", text))


@pytest.mark.parametrize("pattern", [r"[a-c]{2,4}-[0-9]+!", r"(yes|no|né🙂)", r"a/b\n\[x\]"])
def test_answers_match_the_regular_expression_whole(grammars, tokenizer, pattern):
    found = [answer(grammars, tokenizer, Grammar("regex", pattern), seed) for seed in range(10)]
    said = [text for text in found if text is not None]
    assert said
    assert all(re.fullmatch(pattern, text) for text in said)


def test_answers_obey_a_lark_grammar(grammars, tokenizer):
    grammar = Grammar("lark", 'start: "(" start ")" | "x"')
    said = [answer(grammars, tokenizer, grammar, seed) for seed in range(10)]
    for text in said:
        if text is not None:
            depth = text.count("(")
            assert text == "(" * depth + "x" + ")" * depth
    assert any(said)


def test_a_space_that_decoding_loses_does_not_count_for_the_grammar(grammars, tokenizer):
    found = {answer(grammars, tokenizer, Grammar("regex", " ?a"), seed) for seed in range(20)}
    assert found <= {"a", " a"}


def test_the_end_is_all_that_may_follow_a_finished_grammar(grammars, tokenizer):
    state = grammars.compile(Grammar("regex", "ab"))
    for id in tokenizer.encode_bytes("ab"):
        assert not state.finished
        assert state.mask()[id]
        state.advance(id)
    assert state.finished
    assert state.mask().nonzero().flatten().tolist() == [tokenizer.eos_id]


def test_a_mask_is_what_a_twin_allows_token_by_token(grammars, tokenizer):
    state = grammars.compile(schema({"type": "string", "maxLength": 3}))
    for id in tokenizer.encode_bytes('"a'):
        state.advance(id)
    allowed = set(state.mask().nonzero().flatten().tolist())
    plain = re.compile(r'"a[^"\\\x00-\x1f\x7f]{0,2}("|$)')
    for id in range(tokenizer.vocab_size):
        piece = tokenizer.piece(id)
        if isinstance(piece, str) and piece.isascii() and "\\" not in piece and id > 2:
            assert (id in allowed) == bool(piece and plain.fullmatch('"a' + piece)), piece


def test_copies_and_fresh_states_go_their_own_ways(grammars, tokenizer):
    [a, b, c] = tokenizer.encode_bytes("abc")
    first = grammars.compile(Grammar("regex", "a(b|c)"))
    first.advance(a)
    second = first.copy()
    second.advance(b)
    assert second.finished and not first.finished
    assert first.mask()[c] and not first.fresh().mask()[c]


def test_a_token_that_is_not_allowed_is_refused(grammars, tokenizer):
    state = grammars.compile(Grammar("regex", "ab"))
    with pytest.raises(InputError, match="grammar: "):
        state.advance(tokenizer.encode_bytes("z")[0])


def test_compiled_grammars_are_kept_up_to_a_number(tokenizer):
    grammars = Grammars(tokenizer)
    for number in range(KEPT + 10):
        grammars.compile(Grammar("regex", f"a{{{number}}}b"))
        grammars.compile(Grammar("regex", "kept"))
    assert len(grammars.kept) == KEPT
    assert Grammar("regex", "kept") in grammars.kept


def nested(depth: int) -> Any:
    value: Any = {"type": "integer"}
    for _ in range(depth):
        value = {"type": "array", "items": value}
    return value


REFUSED = {
    "not JSON": (Grammar("json_schema", "{"), "json_schema: is not JSON"),
    "no object": (Grammar("json_schema", "[1]"), "is not an object"),
    "too deep": (schema(nested(MAX_DEPTH + 1)), f"nested deeper than {MAX_DEPTH}"),
    "10,000 lists": (Grammar("json_schema", "[" * 10_000), f"nested deeper than {MAX_DEPTH}"),
    "remote": (schema({"$ref": "http://127.0.0.1:9/x.json"}), "does not fetch"),
    "remote base": (schema({"$id": "http://127.0.0.1:9/a", "$ref": "b.json"}), "does not fetch"),
    "remote in Lark": (Grammar("lark", 'start: %json {"$ref":"http://x/y"}'), "does not fetch"),
    "itself": (schema({"$ref": "#"}), ""),
    "unknown keyword": (schema({"not": {"const": 1}}), "Unimplemented keys"),
    "options": (Grammar("lark", '%llguidance {}\nstart: "a"'), "expected rules only"),
    "bad regex": (Grammar("regex", "["), "regex: "),
    "look ahead": (Grammar("regex", "(?=a)b"), "regex: "),
    "back reference": (Grammar("regex", r"(a)\1"), "regex: "),
    "unknown rule": (Grammar("lark", "start: foo"), 'unknown name: "foo"'),
    "control token": (Grammar("lark", 'start: <|im_end|> "a"'), "lark: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_grammar_is_refused_in_one_line(grammars, name):
    grammar, expected = REFUSED[name]
    with pytest.raises(InputError) as caught:
        grammars.compile(grammar)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_schema_somewhere_else_is_never_fetched(grammars):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        with pytest.raises(InputError, match="does not fetch"):
            grammars.compile(schema({"$ref": url}))
        with pytest.raises(BlockingIOError):  # nobody has knocked
            server.accept()


HOSTILE = [
    schema({"type": "object", "properties": {"x": {"$ref": "#"}}}),
    schema({"enum": [f"{number:05}" for number in range(7000)]}),
    schema({"type": "array", "minItems": 10**8, "items": {"type": "integer"}}),
    schema({"type": "string", "minLength": 10**8}),
    schema({"type": "string", "pattern": "(x{1,1000}){1,1000}"}),
    schema({"type": "object", "properties": {f"k{n}": {"type": "integer"} for n in range(1500)}}),
    Grammar("regex", "(a+)+$"),
    Grammar("regex", "(?:x{1,1000}){1,1000}"),
    Grammar("regex", "a{100000000}"),
    Grammar("regex", "(a|b)*a(a|b){18}"),
    Grammar("regex", r"(\w{1,200}){1,200}"),
    Grammar("regex", "(" * 5000 + "a" + ")" * 5000),
    Grammar("lark", 'start: a{1,100000000}\na: "x" | "y"'),
    Grammar("lark", 'start: start start start | "a" | '),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_grammar_that_means_harm_ends_in_a_refusal_or_in_tokens(grammars, number):
    chance = random.Random(0)
    try:
        state = grammars.compile(HOSTILE[number])
        for _ in range(20):
            state.advance(chance.choice(state.mask().nonzero().flatten().tolist()))
    except InputError as error:
        assert str(error)


def test_control_tokens_are_never_allowed(grammars, tokenizer):
    state = grammars.compile(Grammar("regex", r"(?s:.*)"))
    mask = state.mask()
    spared = set(tokenizer.control.values()) - {tokenizer.eos_id}
    assert not mask[list(spared)].any()
    assert mask[tokenizer.eos_id]
    assert torch.count_nonzero(mask) > 250


COSTLY = [
    ("regex", "a{100000000}"),
    ("regex", "(?:x{1000}){1000}"),
    ("regex", "((a{100}b){100}){100}"),
    ("json_schema", '{"type": "string", "minLength": 100000000}'),
    ("json_schema", '{"type": "string", "pattern": "(?:x{1000}){1000}"}'),
    ("json_schema", '{"items": {"type": "string", "maxLength": 1000}, "maxItems": 1000}'),
    ("lark", "start: /a{100000000}/"),
    ("lark", 'start: "a"~1..100000000'),
    ("lark", 'start: ("x"{1000}){1000}'),
    ("lark", 'start: B\nB: A{1000}  // of many\nA: "x"{ 1000 }'),
    ("lark", 'start: A\nA.2: "b" | [C "d"]{200}\nC: D{200}\nD: "x"'),
    ("lark", 'start: %json {"type": "string", "minLength": 100000000}'),
]


@pytest.mark.parametrize(("kind", "text"), COSTLY, ids=[text for _, text in COSTLY])
def test_counts_that_multiply_to_too_much_are_refused_before_they_are_compiled(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, kind: Any, text: str
) -> None:
    monkeypatch.setattr("llguidance.LLMatcher", None)
    with pytest.raises(InputError, match=f"{kind}: its counts stand for more than 20000"):
        grammars.compile(Grammar(kind, text))


FRUGAL = [
    ("regex", "(?:[a-z]{1,20} ){1,100}"),
    ("json_schema", '{"items": {"type": "string", "maxLength": 100}, "maxItems": 100}'),
    ("lark", 'start: item{1,100}\nitem: WORD " "\nWORD: /[a-z]{1,20}/'),
    ("lark", 'start: value\nvalue: "[" (value ("," value){0,9})? "]" | "1"'),
]


@pytest.mark.parametrize(("kind", "text"), FRUGAL, ids=[text for _, text in FRUGAL])
def test_counts_of_a_usual_size_are_compiled(grammars: Grammars, kind: Any, text: str) -> None:
    assert not grammars.compile(Grammar(kind, text)).finished
