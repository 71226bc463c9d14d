"""The reply to a job while it grows: what all shapes of answers have in common."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from puna.text import wire
from puna.text.tokens import Tokenizer
from puna.web.asking import Job
from puna.web.schemas import Sampling

Json = dict[str, Any]


class Token(NamedTuple):
    """One token of an answer or of a prompt, and where it begins in the text (0: not asked)."""

    id: int
    logprob: float | None  # None for the first of a prompt
    tops: wire.Tops
    offset: int = 0


@dataclass
class Choice:
    """One answer."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    stop_reason: str | int | None = None
    begun: bool = False  # whether a stream has said something of it
    places: "Places | None" = None  # of its tokens, where their log-probabilities are asked for


class Places:
    """Where the tokens of a text begin in it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Before the first token."""
        self._stream, self._length = tokenizer.stream(), 0

    def next(self, token: int) -> int:
        """Where the next token begins."""
        place = self._length
        self._length += len(self._stream.push(token))
        return place


class Reply(ABC):
    """What came back so far; `take` the worker's replies, then `last` of a stream, or `whole`.

    A deadline that ends an answer shows as the finish "length" with the stop_reason "deadline".
    """

    def __init__(self, job: Job, asked: Sampling) -> None:
        """Nothing has come."""
        self.job, self.stream = job, asked.stream
        options = asked.stream_options
        self.usage = options is not None and options.include_usage  # at the end of a stream
        self.created = int(time.time())
        self.choices = [Choice(index) for index in range(job.answers)]
        self.prompt_tokens = sum(len(record.prompt) for record in job.records)
        self.cached_tokens = self.drawn = 0
        self.guessed = self.accepted = 0  # tokens, by speculation
        self.queued = self.waited = self.prefill = self.decode = 0.0
        self.first_seconds: float | None = None
        self.begun = self.moved = False
        self._began = time.monotonic()
        self._first = [sum(r.n for r in job.records[:i]) for i in range(len(job.records))]
        self._ended = 0
        self._names = {token: name for name, token in self.tokenizer.control.items()}
        self._fingerprint = job.model.fingerprint
        self._heads: dict[str, Json] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.job.ready.tokenizer

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return self._ended == len(self.choices)

    def begin(self, now: float) -> None:
        """The job leaves the queue."""
        self.begun, self.queued = True, now - self._began

    def take(self, index: int, reply: wire.Piece | wire.Done | wire.Prompt) -> list[Json]:
        """Add a reply to prompt number `index`; what a stream says of it."""
        self.moved = True
        if isinstance(reply, wire.Prompt):
            self.take_prompt(index, reply)
            return []
        choice = self.choices[self._first[index] + reply.sample]
        if isinstance(reply, wire.Done):
            return list(self._take_done(index, choice, reply))
        self.drawn += len(reply.ids)
        if self.first_seconds is None:
            self.first_seconds = time.monotonic() - self._began
        return list(self.take_piece(choice, reply.text, self._tokens(index, choice, reply)))

    def _take_done(self, index: int, choice: Choice, done: wire.Done) -> Iterator[Json]:
        self._ended += 1
        late = done.finish in ("deadline", "cancelled")
        choice.finish = "length" if late else done.finish
        choice.stop_reason = done.finish if late else done.stop_reason
        if done.sample == 0:
            self.cached_tokens += done.cached_tokens
        times = done.timings
        self.waited = max(self.waited, times.get("queue_seconds", 0.0))
        self.prefill = max(self.prefill, times.get("prompt_seconds", 0.0))
        after_first = times.get("seconds", 0.0) - times.get("first_token_seconds", 0.0)
        self.decode = max(self.decode, after_first)
        self.guessed += int(times.get("proposed", 0))
        self.accepted += int(times.get("accepted", 0))
        yield from self.take_end(choice)

    def _tokens(self, index: int, choice: Choice, piece: wire.Piece) -> list[Token]:
        """The tokens of a piece, without the one that ends an answer; none if not asked for."""
        params = self.job.records[index].params
        if params.logprobs is None:
            return []
        if choice.places is None:
            choice.places = Places(self.tokenizer)
        tops = piece.tops or [[]] * len(piece.ids)
        return [
            Token(token, logprob, top, choice.places.next(token))
            for token, logprob, top in zip(piece.ids, piece.logprobs, tops, strict=False)
            if params.ignore_eos or token != self.tokenizer.eos_id
        ]

    @abstractmethod
    def take_piece(self, choice: Choice, text: str, tokens: list[Token]) -> Iterator[Json]:
        """Add text and tokens to an answer; what a stream says of it."""

    @abstractmethod
    def take_end(self, choice: Choice) -> Iterator[Json]:
        """The answer has ended; what a stream says of it."""

    @abstractmethod
    def take_prompt(self, index: int, prompt: wire.Prompt) -> None:
        """The log-probabilities of prompt number `index` have come."""

    @abstractmethod
    def last(self) -> Iterator[Json]:
        """What a stream says when all answers have ended."""

    @abstractmethod
    def whole(self) -> Json:
        """The reply that is no stream."""

    def head(self, kind: str, prefix: str) -> Json:
        """What every record of a reply begins with; add to it by `|`."""
        if kind not in self._heads:
            self._heads[kind] = self._head(kind, prefix)
        return self._heads[kind]

    def _head(self, kind: str, prefix: str) -> Json:
        return {
            "id": f"{prefix}-{self.job.trace.id.removeprefix('req-')}",
            "object": kind,
            "created": self.created,
            "model": self.job.name,
            "system_fingerprint": self._fingerprint,
        }

    def usage_record(self) -> Json:
        """Numbers of tokens."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.drawn,
            "total_tokens": self.prompt_tokens + self.drawn,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def timings_record(self) -> Json:
        """Seconds, and tokens a second; of several answers the slowest's."""
        read = self.prompt_tokens - self.cached_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.drawn,
            "guessed_tokens": self.guessed,
            "accepted_tokens": self.accepted,
            "queue_seconds": round(self.queued + self.waited, 6),
            "prompt_seconds": round(self.prefill, 6),
            "decode_seconds": round(self.decode, 6),
            "first_token_seconds": round(self.first_seconds or 0.0, 6),
            "total_seconds": round(time.monotonic() - self._began, 6),
            "prompt_per_second": _rate(read, self.prefill),
            "completion_per_second": _rate(self.drawn, self.decode),
        }

    def token_text(self, token: int) -> tuple[str, list[int]]:
        """A token as text, and its bytes; a control token by its name, and no bytes."""
        piece = self.tokenizer.piece(token)
        if piece is None:
            return self._names.get(token, f"<{token}>"), []
        data = bytes([piece]) if isinstance(piece, int) else piece
        data = data.encode() if isinstance(data, str) else data
        return data.decode("utf-8", "replace"), list(data)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0
