"""A request's sampling fields as the engine's parameters, and as records for its worker."""

import secrets
from dataclasses import dataclass, field

from puna.errors import InputError
from puna.text import wire
from puna.text.completion import Grammar, SamplingParams
from puna.web.client import Ready
from puna.web.failures import refused
from puna.web.guard import Trace
from puna.web.keys import Key
from puna.web.schemas import Sampling
from puna.web.service import Limits, Model

TOLD = 1_000_000  # tokens and alternatives to them in one answer; each takes about 200 bytes


@dataclass
class Job:
    """What one HTTP request asks of a worker."""

    trace: Trace
    model: Model
    ready: Ready
    key: Key
    records: list[wire.Generate]
    seconds: float  # for all of it, the time in the queue included
    name: str = ""  # the model as the client named it
    answers: int = field(init=False)  # how many are written at the same time
    tokens: int = field(init=False)  # the most that prompts and answers can have together

    def __post_init__(self) -> None:
        """Add up the records."""
        self.answers = sum(record.n for record in self.records)
        self.tokens = sum(
            len(record.prompt) + record.n * record.params.max_tokens for record in self.records
        )
        told = sum(map(_told, self.records))
        if told > TOLD:
            what = f"could answer with {told} tokens and alternatives, expected at most {TOLD}"
            raise refused("max_tokens", f"n, max_tokens and logprobs together {what}")


def _told(record: wire.Generate) -> int:
    """Tokens of all answers to a prompt and, where asked for, of the prompt; with alternatives."""
    answers = record.n * record.params.max_tokens * (1 + (record.params.logprobs or 0))
    if record.prompt_logprobs is None:
        return answers
    return answers + len(record.prompt) * (1 + record.prompt_logprobs)


def sampling_params(
    asked: Sampling,
    ready: Ready,
    max_tokens: int,
    logprobs: int | None,
    grammar: Grammar | None,
    stops: tuple[str, ...] = (),
) -> SamplingParams:
    """The engine's parameters. ApiError 400: an id beyond the vocabulary, values that clash."""
    size = ready.hello.vocab_size
    bias = tuple((int(name), value) for name, value in (asked.logit_bias or {}).items())
    for param, ids in (
        ("logit_bias", [token for token, _ in bias]),
        ("stop_token_ids", asked.stop_token_ids or []),
    ):
        if ids and max(ids) >= size:
            raise refused(param, f"id {max(ids)} is out of range, expected below {size}")
    if asked.min_tokens > max_tokens:
        raise refused("min_tokens", f"more than the {max_tokens} tokens that an answer can have")
    own = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    try:
        return SamplingParams(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            max_tokens=max_tokens,
            seed=secrets.randbits(31) if asked.seed is None else asked.seed,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=bias,
            stop=(*own, *stops),
            stop_ids=tuple(asked.stop_token_ids or ()),
            ignore_eos=asked.ignore_eos,
            min_tokens=asked.min_tokens,
            logprobs=logprobs,
            grammar=grammar,
        )
    except InputError as error:
        param = str(error).partition(":")[0]
        raise refused(param if param.isidentifier() else "body", str(error)) from None


def seconds_of(asked: Sampling, limits: Limits) -> float:
    """The time that the request has. ApiError 400: more than the server gives."""
    if asked.max_seconds is None:
        return limits.request_seconds
    if asked.max_seconds > limits.request_seconds:
        raise refused("max_seconds", f"expected at most {limits.request_seconds:g}")
    return asked.max_seconds
