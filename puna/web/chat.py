"""`/v1/chat/completions`: a conversation, and what the assistant says next."""

from collections.abc import Iterator
from typing import Any

from puna.text import wire
from puna.text.template import TAGS
from puna.web.asking import Job, sampling_params, seconds_of
from puna.web.failures import refused
from puna.web.guard import Trace
from puna.web.prompts import Prompt, fit, to_dialog
from puna.web.reply import Choice, Json, Reply, Token
from puna.web.schemas import ChatRequest
from puna.web.service import Service
from puna.web.tools import grammar_of, may_be_call, read_calls


def prepare(service: Service, trace: Trace, asked: ChatRequest) -> tuple[Job, "ChatReply"]:
    """What a chat request asks of a worker. ApiError: what is wrong with it."""
    model, adapter = service.find(asked.model, trace.key)
    ready = model.ready
    wanted = asked.max_completion_tokens
    if wanted is None:
        wanted = asked.max_tokens
    elif asked.max_tokens not in (None, wanted):
        raise refused("max_tokens", "differs from max_completion_tokens")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise refused("top_logprobs", "expected logprobs to be true")
    if asked.stream_options is not None and not asked.stream:
        raise refused("stream_options", "expected stream to be true")
    calling = asked.tools if asked.tool_choice != "none" else None
    grammar = grammar_of(asked.tools, asked.tool_choice, asked.response_format)
    prompt = fit(
        to_dialog(asked.messages, calling or ()),
        *(ready.tokenizer, ready.hello.context, wanted),
        *(asked.truncation, service.limits.tags, asked.continue_final_message),
    )
    stops = TAGS if ready.hello.format == "llama2" and grammar is None else ()
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    record = wire.Generate(
        id=trace.id,
        prompt=prompt.ids,
        params=sampling_params(asked, ready, prompt.max_tokens, logprobs, grammar, stops),
        n=asked.n,
        adapter=adapter,
        tenant=trace.key.name,
    )
    forged = sum(message.role == "assistant" for message in asked.messages)
    trace.notes |= {"model": asked.model, "prompt": len(prompt.ids), "unverified": forged}
    if asked.user:
        trace.notes["user"] = ascii(asked.user)
    seconds = seconds_of(asked, service.limits)
    job = Job(trace, model, ready, trace.key, [record], seconds, asked.model)
    return job, ChatReply(job, asked, prompt)


class ChatReply(Reply):
    """Messages of the assistant.

    Blanks before an answer are left out, as the chat format puts one there. Where functions may be
    called, a text that could become a call is held back until it is one or cannot be.
    """

    def __init__(self, job: Job, asked: ChatRequest, prompt: Prompt) -> None:
        """Nothing has come."""
        super().__init__(job, asked)
        self.prompt, self.logprobs = prompt, asked.logprobs
        self.tools = [] if asked.tool_choice == "none" else asked.tools or []
        self.several = asked.parallel_tool_calls
        self._held: dict[int, list[Token]] = {}

    def take_piece(self, choice: Choice, text: str, tokens: list[Token]) -> Iterator[Json]:
        """Add text and tokens; the stream says them, or holds them back."""
        if not choice.text and not self.prompt.unfinished:
            text = text.lstrip()
        before = choice.text
        choice.text += text
        choice.tokens += tokens
        if self.tools and may_be_call(choice.text):
            self._held.setdefault(choice.index, []).extend(tokens)
            return
        if self.tools and may_be_call(before):  # what was held back turns out to be words
            text, tokens = choice.text, self._held.pop(choice.index, []) + tokens
        if text or (self.logprobs and tokens):
            yield self._delta(choice, {"content": text}, tokens)

    def take_prompt(self, index: int, prompt: wire.Prompt) -> None:
        """Nobody can ask for a conversation's log-probabilities."""

    def take_end(self, choice: Choice) -> Iterator[Json]:
        """The end of an answer: a call that was held back, and why it ended."""
        calls = self._calls(choice)
        if calls:
            choice.finish = "tool_calls" if choice.finish == "stop" else choice.finish
            numbered = [{"index": index, **call} for index, call in enumerate(calls)]
            yield self._delta(choice, {"content": None, "tool_calls": numbered}, [])
        elif self.tools and may_be_call(choice.text) and choice.text:
            held = self._held.pop(choice.index, [])
            yield self._delta(choice, {"content": choice.text}, held)
        record = self._delta(choice, {}, [])
        record["choices"][0]["stop_reason"] = choice.stop_reason
        yield record | {"choices": [{**record["choices"][0], "finish_reason": choice.finish}]}

    def last(self) -> Iterator[Json]:
        """A record without answers: numbers of tokens if asked for, times, the context."""
        record = self.head("chat.completion.chunk", "chatcmpl") | {"choices": []}
        if self.usage:
            record["usage"] = self.usage_record()
        yield record | {"timings": self.timings_record(), "context": self.prompt.context}

    def whole(self) -> Json:
        """All answers."""
        return self.head("chat.completion", "chatcmpl") | {
            "choices": [self._whole(choice) for choice in self.choices],
            "usage": self.usage_record(),
            "timings": self.timings_record(),
            "context": self.prompt.context,
        }

    def _whole(self, choice: Choice) -> Json:
        calls = self._calls(choice)
        message: Json = {"role": "assistant", "content": choice.text}
        if calls:
            message |= {"content": None, "tool_calls": calls}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice.tokens) if self.logprobs else None,
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
        }

    def _calls(self, choice: Choice) -> list[dict[str, Any]] | None:
        return read_calls(choice.text, self.tools, self.several) if self.tools else None

    def _delta(self, choice: Choice, delta: Json, tokens: list[Token]) -> Json:
        if not choice.begun:
            choice.begun = True
            delta = {"role": "assistant", "content": "", **delta}
        entry: Json = {"index": choice.index, "delta": delta, "finish_reason": None}
        entry["logprobs"] = self._logprobs(tokens) if self.logprobs and tokens else None
        return self.head("chat.completion.chunk", "chatcmpl") | {"choices": [entry]}

    def _logprobs(self, tokens: list[Token]) -> Json:
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: Token) -> Json:
        others = [self._one(other, value) for other, value in token.tops]
        return self._one(token.id, token.logprob or 0.0) | {"top_logprobs": others}

    def _one(self, number: int, logprob: float) -> Json:
        text, data = self.token_text(number)
        return {"token": text, "logprob": logprob, "bytes": data, "id": number}
