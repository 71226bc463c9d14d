"""What is asked of a model and what it answers, without knowing which model or machine it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from puna.errors import InputError
from puna.text.dialog import Dialog

MAX_TOKENS = 2**24  # the longest answer that may be asked for
MAX_STOPS, MAX_STOP_CHARACTERS = 64, 256
MAX_STOP_IDS, MAX_BIASES, MAX_TOPS = 1024, 1024, 20
MAX_GRAMMAR_BYTES = 65536

KINDS = ("json_schema", "regex", "lark")


@dataclass(frozen=True)
class Grammar:
    """What an answer has to look like: a JSON schema, a regular expression or a Lark grammar.

    InputError for another kind, and for a text that is empty or longer than MAX_GRAMMAR_BYTES.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str

    def __post_init__(self) -> None:
        """Check the kind and the length; whether the text makes sense is seen when compiled."""
        if self.kind not in KINDS:
            raise _refused("grammar.kind", self.kind, f"one of {', '.join(KINDS)}")
        _spelled("grammar.text", self.text)
        size = len(self.text.encode())
        if not 1 <= size <= MAX_GRAMMAR_BYTES:
            raise _refused("grammar.text", f"{size} bytes", f"1 to {MAX_GRAMMAR_BYTES} bytes")


@dataclass(frozen=True)
class SamplingParams:
    """How answers are drawn. The defaults of temperature and top_p are the released code's.

    InputError names the value that is out of its range.
    """

    temperature: float = 0.6  # 0 takes the most likely token
    top_p: float = (
        0.9  # nucleus: tokens beyond this cumulative probability are dropped; 1 keeps all
    )
    top_k: int = 0  # the k most likely tokens are kept; 0 keeps all
    max_tokens: int = 128  # tokens of one answer, its end token included
    seed: int = 0
    min_p: float = 0.0  # a token this much less likely than the likeliest is dropped; 0 keeps all
    repetition_penalty: float = 1.0  # logits of tokens seen in prompt or answer shrink by this
    presence_penalty: float = 0.0  # taken from the logit of every token of the answer
    frequency_penalty: float = 0.0  # taken as often as the token is in the answer
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    stop: tuple[str, ...] = ()  # a text that ends the answer; it is not part of it
    stop_ids: tuple[int, ...] = ()  # tokens that end the answer, as the end token does
    ignore_eos: bool = False  # the end token does not end the answer
    min_tokens: int = 0  # no end before so many tokens
    logprobs: int | None = None  # so many of the likeliest tokens are told with each token
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        """Check types, ranges and numbers of entries."""
        _number("temperature", self.temperature, 0, 100)
        _number("top_p", self.top_p, 0, 1, above=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0, 10, above=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _whole("top_k", self.top_k, 0, 2**31 - 1)
        _whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _whole("seed", self.seed, 0, 2**64 - 1)
        _whole("min_tokens", self.min_tokens, 0, self.max_tokens, "max_tokens")
        if not isinstance(self.ignore_eos, bool):
            raise _refused("ignore_eos", self.ignore_eos, "true or false")
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_TOPS)
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise _refused("grammar", self.grammar, "a Grammar")
        self._check_lists()

    def fits(self, vocab_size: int) -> None:
        """InputError if a token id that is named is not below `vocab_size`."""
        for name, ids in (
            ("logit_bias", [id for id, _ in self.logit_bias]),
            ("stop_ids", self.stop_ids),
        ):
            for id in ids:
                if id >= vocab_size:
                    raise _refused(name, f"id {id}", f"0 to {vocab_size - 1}")

    def _check_lists(self) -> None:
        _entries("stop", self.stop, MAX_STOPS)
        for text in self.stop:
            _spelled("stop", text)
            if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                expected = f"1 to {MAX_STOP_CHARACTERS} characters"
                raise _refused("stop", f"a text of {len(text)} characters", expected)
        _entries("stop_ids", self.stop_ids, MAX_STOP_IDS)
        for id in self.stop_ids:
            _whole("stop_ids", id, 0, 2**31 - 1)
        _entries("logit_bias", self.logit_bias, MAX_BIASES)
        for entry in self.logit_bias:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise _refused("logit_bias", entry, "pairs of a token id and a number")
            _whole("logit_bias", entry[0], 0, 2**31 - 1)
            _number(f"logit_bias of {entry[0]}", entry[1], -100, 100)
        if len({id for id, _ in self.logit_bias}) < len(self.logit_bias):
            raise InputError("logit_bias: a token id stands twice, expected each once")


@dataclass(frozen=True)
class Completion:
    """One answer: its text without blanks around it, and how it was drawn.

    `ids` are the drawn tokens, with the end token if `finish` is "stop"; `logprobs` their natural
    log-probabilities at temperature 1 before any token was dropped, one for each id. `stop_reason`
    is the stop string or the id of `stop_ids` that ended the answer, None for the end token.
    `tops` are, where `SamplingParams.logprobs` asks for them, the likeliest tokens in each place:
    pairs of an id and its log-probability, the likeliest first.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length", "cancelled", "deadline"]
    stop_reason: str | int | None = None
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()


class Sampler(Protocol):
    """Whatever answers dialogs: an engine, a remote model, a fake in a test."""

    def generate(
        self,
        dialogs: Sequence[Dialog],
        params: SamplingParams,
        n: int = 1,
        track: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Return `n` answers to each dialog, all of which end with a user message.

        `track(k)` is called whenever k more answers are finished.
        """
        ...


def _refused(name: str, value: Any, expected: str) -> InputError:
    shown = value if isinstance(value, str) else repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return InputError(f"{name}: {shown} is out of range, expected {expected}")


def _number(name: str, value: Any, least: float, most: float, above: bool = False) -> None:
    """InputError unless `value` is a finite number from `least` (or above it) to `most`."""
    edge = f"above {least}" if above else f"{least} or more"
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    if not whole or not math.isfinite(value):
        raise _refused(name, value, f"a number, {edge} and at most {most}")
    if not least <= value <= most or (above and value == least):
        raise _refused(name, value, f"{edge} and at most {most}")


def _whole(name: str, value: Any, least: int, most: int, named: str | None = None) -> None:
    """InputError unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        end = f"{most} ({named})" if named else f"{most}"
        raise _refused(name, value, f"a whole number, {least} or more and at most {end}")


def _entries(name: str, value: Any, most: int) -> None:
    if not isinstance(value, tuple):
        raise _refused(name, value, "a tuple")
    if len(value) > most:
        raise _refused(name, f"{len(value)} entries", f"at most {most}")


def _spelled(name: str, text: Any) -> None:
    """InputError unless `text` is a text that can be encoded."""
    if not isinstance(text, str):
        raise _refused(name, text, "a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name}: half a UTF-16 surrogate pair is no text") from None
