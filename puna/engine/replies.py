"""What the engine says, as records of the wire, and as lines of the log."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from puna.errors import InputError
from puna.text import wire

FINISHES = get_args(wire.Done.__annotations__["finish"])


@dataclass(eq=False)
class Running:
    """A request that is not answered completely."""

    prompt_tokens: int
    samples: dict[int, int] = field(default_factory=dict)  # unfinished sample -> tokens so far


@dataclass(eq=False)
class Ended:
    """An `Output` of the engine that holds nothing but an end."""

    id: str
    sample: int
    finish: str
    ids: Sequence[int] = ()
    text: str = ""
    drawn: Sequence[Any] = ()
    stop_reason: None = None
    timings: None = None
    prompt_logprobs: None = None


def piece(output: Any) -> wire.Piece:
    """The tokens and the text of an `Output`."""
    tops = [list(drawn.tops) for drawn in output.drawn]
    return wire.Piece(
        id=output.id,
        sample=output.sample,
        ids=list(output.ids),
        text=output.text,
        logprobs=[drawn.logprob for drawn in output.drawn],
        tops=tops if any(tops) else [],
    )


def done(output: Any, prompt_tokens: int, tokens: int) -> wire.Done:
    """The end of a sample that has so many tokens."""
    timings = dict(output.timings or {})
    return wire.Done(
        id=output.id,
        sample=output.sample,
        finish=output.finish,
        stop_reason=output.stop_reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=int(timings.get("cached_tokens", 0)),
        completion_tokens=tokens,
        timings=timings,
    )


def failure(output: Any) -> wire.Failed:
    """What is told of an output that ended with an error of its own; the log has the rest."""
    error = getattr(output, "error", None)
    if isinstance(error, InputError):
        return wire.Failed(id=output.id, message=str(error), kind="input")
    note(f"request {output.id}: {error!r}")
    message = "the model failed while it was answering"
    return wire.Failed(id=output.id, message=message, kind="internal")


def prompt_record(id: str, scored: Sequence[Any]) -> wire.Prompt:
    """The log-probabilities of a prompt's tokens; None stands for the first, which has none."""
    return wire.Prompt(
        id=id,
        logprobs=[None if drawn is None else drawn.logprob for drawn in scored],
        tops=[[] if drawn is None else list(drawn.tops) for drawn in scored],
    )


def note(text: str) -> None:
    """A line, or several, for the log, if anybody still reads it."""
    with contextlib.suppress(OSError):
        print(text.rstrip(), file=sys.stderr, flush=True)
