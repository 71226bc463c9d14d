"""What may be asked of a model: each setting's range, named in one line where it is left."""

from dataclasses import replace

import pytest

from puna.errors import InputError
from puna.text.completion import Grammar, SamplingParams

NAN, INF = float("nan"), float("inf")

WRONG = [
    *({"temperature": value} for value in (-0.1, 100.5, NAN, INF, True, "1", None)),
    *({"top_p": value} for value in (0, 1.1, NAN, -INF)),
    *({"top_k": value} for value in (-1, 1.5, 2**31, True)),
    *({"max_tokens": value} for value in (0, 10**9, 1.0)),
    *({"seed": value} for value in (-1, 2**64, 0.5)),
    *({"min_p": value} for value in (-0.1, 1.1, NAN)),
    *({"repetition_penalty": value} for value in (0, -1, 10.5, INF)),
    *({"presence_penalty": value} for value in (-2.1, 2.1, NAN)),
    *({"frequency_penalty": value} for value in (-2.1, 2.1, NAN)),
    *({"min_tokens": value} for value in (-1, 129, 1.5)),
    *({"logprobs": value} for value in (-1, 21, 10**9, True, 1.0)),
    *({"ignore_eos": value} for value in (1, None, "no")),
    *({"stop": value} for value in ("text", ["a"], ("",), ("a" * 257,), ("a",) * 65, (1,))),
    *({"stop": value} for value in (("\ud800",), ("a" * 10**6,), ("ab",) * 10**6)),
    *({"stop_ids": value} for value in ([1], (-1,), (2**31,), (True,), (1.0,), (1,) * 1025)),
    *({"logit_bias": value} for value in ({1: 2}, ((1,),), ((-1, 0.0),), ((1, 101.0),))),
    *({"logit_bias": value} for value in (((1, NAN),), ((1, 1.0), (1, 2.0)), ((1, 0.0),) * 10**6)),
    *({"grammar": value} for value in ("json", {"kind": "regex"})),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong}"[:40])
def test_a_setting_out_of_its_range_is_refused_by_name_in_one_line(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"^{name}\\b") as caught:
        SamplingParams(**wrong)
    assert len(str(caught.value)) < 200


RIGHT = [
    {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0},
    {"temperature": 100.0, "top_p": 1e-9, "min_p": 1, "seed": 2**64 - 1},
    {"stop": ("a" * 256,) * 64, "stop_ids": (0, 2**31 - 1)},
    {"logit_bias": tuple((id, -100 if id % 2 else 100.0) for id in range(1024))},
    {"logprobs": 0, "min_tokens": 128, "ignore_eos": True},
    {"logprobs": 20, "repetition_penalty": 10, "presence_penalty": -2, "frequency_penalty": 2},
    {"grammar": Grammar("regex", "a")},
]


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: next(iter(right)))
def test_the_ends_of_every_range_are_allowed(right):
    params = SamplingParams(**right)
    assert replace(params) == params
    assert hash(replace(params)) == hash(params)


@pytest.mark.parametrize("name", ["logit_bias", "stop_ids"])
def test_an_id_beyond_the_vocabulary_is_refused(name):
    def params(id):
        return SamplingParams(**{name: ((id, 1.0),) if name == "logit_bias" else (id,)})

    params(31999).fits(32000)
    with pytest.raises(InputError, match=f"{name}: id 32000 is out of range, expected 0 to 31999"):
        params(32000).fits(32000)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("yaml", "a", "kind: yaml is out of range, expected one of json_schema, regex, lark"),
        ("regex", "", "text: 0 bytes is out of range, expected 1 to 65536 bytes"),
        ("regex", "é" * 32769, "text: 65538 bytes is out of range"),
        ("regex", "\udc00", "text: half a UTF-16 surrogate pair is no text"),
        ("regex", b"a", "text: .* expected a text"),
    ],
)
def test_a_grammar_of_another_kind_or_size_is_refused(kind, text, expected):
    with pytest.raises(InputError, match=f"grammar.{expected}"):
        Grammar(kind, text)
