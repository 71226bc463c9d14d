"""`/v1/completions`: texts or ids, and how they go on."""

from collections.abc import Iterator, Sequence
from typing import cast

from puna.errors import InputError
from puna.text import wire
from puna.text.tokens import Tokenizer
from puna.web.asking import Job, sampling_params, seconds_of
from puna.web.failures import refused
from puna.web.guard import Trace
from puna.web.prompts import fit_ids
from puna.web.reply import Choice, Json, Places, Reply, Token
from puna.web.schemas import CompletionRequest
from puna.web.service import Service
from puna.web.tools import grammar_of

Given = str | list[str] | list[int] | list[list[int]]


def id_lists(given: Given, tokenizer: Tokenizer, param: str) -> list[list[int]]:
    """One or several texts or lists of ids as lists of ids; a text begins with the begin id.

    No text becomes a control id. ApiError 400: a text that has no tokens.
    """
    if isinstance(given, str):
        given = [given]
    if given and isinstance(given[0], int):
        return [given]
    try:
        return [
            tokenizer.encode(one, bos=True) if isinstance(one, str) else cast(list[int], one)
            for one in given
        ]
    except InputError as error:
        raise refused(param, str(error)) from None


def prepare(
    service: Service, trace: Trace, asked: CompletionRequest
) -> tuple[Job, "CompletionReply"]:
    """What a completion request asks of a worker. ApiError: what is wrong with it."""
    model, adapter = service.find(asked.model, trace.key)
    ready = model.ready
    if asked.stream_options is not None and not asked.stream:
        raise refused("stream_options", "expected stream to be true")
    if asked.max_tokens == 0 and not asked.echo:
        raise refused("max_tokens", "0 is for echo only")
    grammar = grammar_of(None, None, asked.response_format)
    prompts = id_lists(asked.prompt, ready.tokenizer, "prompt")
    for ids in prompts:
        fit_ids(ids, ready.hello.context, ready.hello.vocab_size, asked.max_tokens, "prompt")
    most = max(asked.max_tokens, 1)
    params = sampling_params(asked, ready, most, asked.logprobs, grammar)
    scored = asked.logprobs if asked.echo else None
    records = [
        wire.Generate(
            id=f"{trace.id}-{index}",
            prompt=ids,
            params=params,
            n=asked.n,
            adapter=adapter,
            tenant=trace.key.name,
            prompt_logprobs=scored,
        )
        for index, ids in enumerate(prompts)
    ]
    trace.notes |= {"model": asked.model, "prompt": sum(map(len, prompts))}
    if asked.user:
        trace.notes["user"] = ascii(asked.user)
    seconds = seconds_of(asked, service.limits)
    job = Job(trace, model, ready, trace.key, records, seconds, asked.model)
    return job, CompletionReply(job, asked)


class CompletionReply(Reply):
    """Texts that go on from the prompts."""

    def __init__(self, job: Job, asked: CompletionRequest) -> None:
        """Nothing has come."""
        super().__init__(job, asked)
        self.asked = asked
        self._prompts: dict[int, list[Token]] = {}

    def take_prompt(self, index: int, prompt: wire.Prompt) -> None:
        """Keep a prompt's log-probabilities, to be echoed."""
        ids = self.job.records[index].prompt
        tops: Sequence[wire.Tops] = prompt.tops or [[]] * len(ids)
        places = Places(self.tokenizer)
        self._prompts[index] = [
            Token(token, logprob, top, places.next(token))
            for token, logprob, top in zip(ids, prompt.logprobs, tops, strict=False)
        ]

    def take_piece(self, choice: Choice, text: str, tokens: list[Token]) -> Iterator[Json]:
        """Add text and tokens; the stream says them."""
        if self.asked.max_tokens == 0:  # the prompt is all that was asked for
            self.drawn = 0
            return
        begins, offset = not choice.begun, len(self._echoed(choice))
        choice.text += text
        choice.tokens += tokens
        if begins:
            yield from self._begin(choice)
        if text or (tokens and self.asked.logprobs is not None):
            yield self._chunk(choice, text, tokens, offset)

    def take_end(self, choice: Choice) -> Iterator[Json]:
        """Why an answer ended."""
        if self.asked.max_tokens == 0:
            choice.finish = "length"
        yield from self._begin(choice)
        record = self._chunk(choice, "", [], 0)
        ended = {"finish_reason": choice.finish, "stop_reason": choice.stop_reason}
        yield record | {"choices": [record["choices"][0] | ended]}

    def last(self) -> Iterator[Json]:
        """A record without answers: numbers of tokens if asked for, and times."""
        record = self.head("text_completion", "cmpl") | {"choices": []}
        if self.usage:
            record["usage"] = self.usage_record()
        yield record | {"timings": self.timings_record()}

    def whole(self) -> Json:
        """All answers."""
        choices = []
        for choice in self.choices:
            echoed = self._echoed(choice)
            moved = [t._replace(offset=t.offset + len(echoed)) for t in choice.tokens]
            entry = self._entry(choice, echoed + choice.text, self._scored(choice) + moved, 0)
            ended = {"finish_reason": choice.finish, "stop_reason": choice.stop_reason}
            choices.append(entry | ended)
        return self.head("text_completion", "cmpl") | {
            "choices": choices,
            "usage": self.usage_record(),
            "timings": self.timings_record(),
        }

    def _begin(self, choice: Choice) -> Iterator[Json]:
        """The echoed prompt, before anything else."""
        if not choice.begun:
            choice.begun = True
            if self.asked.echo:
                yield self._chunk(choice, self._echoed(choice), self._scored(choice), 0)

    def _prompt_of(self, choice: Choice) -> int:
        return choice.index // self.asked.n

    def _echoed(self, choice: Choice) -> str:
        if not self.asked.echo:
            return ""
        return self.tokenizer.decode(self.job.records[self._prompt_of(choice)].prompt)

    def _scored(self, choice: Choice) -> list[Token]:
        return self._prompts.get(self._prompt_of(choice), []) if self.asked.echo else []

    def _chunk(self, choice: Choice, text: str, tokens: list[Token], offset: int) -> Json:
        entry = self._entry(choice, text, tokens, offset)
        return self.head("text_completion", "cmpl") | {"choices": [entry]}

    def _entry(self, choice: Choice, text: str, tokens: list[Token], offset: int) -> Json:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(tokens, offset) if self.asked.logprobs is not None else None,
            "finish_reason": None,
            "stop_reason": None,
        }

    def _logprobs(self, tokens: list[Token], offset: int) -> Json:
        """Tokens, log-probabilities, alternatives, and where each token begins in the text."""
        return {
            "tokens": [self.token_text(token.id)[0] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._alternatives(token.tops) for token in tokens],
            "text_offset": [offset + token.offset for token in tokens],
        }

    def _alternatives(self, tops: wire.Tops) -> dict[str, float] | None:
        """By text; of two tokens with the same text the more likely one."""
        found: dict[str, float] = {}
        for token, value in tops:
            found.setdefault(self.token_text(token)[0], value)
        return found or None
