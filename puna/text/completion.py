"""What is asked of a model and what it answers, without knowing which model or machine it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from puna.errors import InputError
from puna.text.dialog import Dialog


@dataclass(frozen=True)
class Grammar:
    """What an answer must match."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str


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
    min_p: float = 0
    repetition_penalty: float = 1
    presence_penalty: float = 0
    frequency_penalty: float = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(0 <= self.temperature < float("inf"), "temperature", self.temperature, "0 or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(self.top_k >= 0, "top_k", self.top_k, "0 or more")
        _check(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _check(self.seed >= 0, "seed", self.seed, "0 or more")


@dataclass(frozen=True)
class Completion:
    """One answer: its text without blanks around it, and how it was drawn.

    `ids` are the drawn tokens, with the end token if `finish` is "stop"; `logprobs` their natural
    log-probabilities at temperature 1 before any token was dropped, one for each id.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


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


def _check(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise InputError(f"{name}: {value} is out of range, expected {expected}")
