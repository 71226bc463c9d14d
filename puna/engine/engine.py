"""Many answers at once from one model (paper, 3.2.3): the front that the other rooms call."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from puna.engine.blocks import blocks_for
from puna.engine.loop import Loop
from puna.engine.runner import Row, elastic
from puna.engine.sequence import Request
from puna.engine.step import Output
from puna.errors import InputError
from puna.text.completion import Completion, SamplingParams
from puna.text.dialog import Dialog
from puna.text.template import before_tag, encode_prompt

__all__ = ["Engine", "Output", "Request"]

OFFLINE_CHUNK = 4096  # tokens of prompts in one step, where nobody waits for the single answer


class Engine(Loop):
    """A `Sampler` over a model: up to `rows` answers grow at the same time.

    An answer's random numbers come from (params.seed, its prompt's number, index of the sample)
    only, so it does not depend on what else is in the batch, on `rows`, or on the order of work.
    How far its bits do not either is the runner's matter: the native decoder's results depend on a
    token's own prefix and nothing else; `TorchRunner`'s are equal up to rounding.

    Requests one by one: `add`, then `step` until `idle`. Many prompts at once: `generate`.
    """

    serial = count(1)  # for the ids of requests that nobody named

    def generate(
        self,
        dialogs: Sequence[Dialog],
        params: SamplingParams,
        n: int = 1,
        track: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` answers to each dialog (each ends with a user message); see `generate_ids`."""
        prompts = [encode_prompt(dialog, self.tokenizer) for dialog in dialogs]
        return self.generate_ids(prompts, params, n, track)

    def generate_ids(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        n: int = 1,
        track: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` answers to each encoded prompt; `track(k)` is called as k more of them are finished.

        `ids` and `logprobs` of a Completion include the end-of-sequence token when the answer ends
        with one (finish "stop"); otherwise max_tokens or the context cut it off (finish "length").
        InputError: a prompt that is empty or leaves no room for an answer.
        """
        self.limits(prompts, params)
        if n < 1:
            raise InputError(f"n: {n} given, expected 1 or more answers a prompt")
        if not prompts:
            return []
        self.renew()
        places = {f"#{next(self.serial)}": index for index in range(len(prompts))}
        answers: list[dict[int, Completion]] = [{} for _ in prompts]
        try:
            self.gather(places, prompts, params, n)
            left = n * len(prompts)
            while left:
                finished = 0
                for output in self.outputs_of(places):
                    completion = self.completion(output)
                    answers[places[output.id]][output.sample] = completion
                    finished += 1
                left -= finished
                if track and finished:
                    track(finished)
        finally:
            for id in {s.request.id for s in self.scheduler.sequences()} & places.keys():
                self.cancel(id)
            self.scheduler.chunk, self.scheduler.patience = self.chunk, 1
            self.renew()
        return [[found[sample] for sample in range(n)] for found in answers]

    def gather(
        self, places: dict[str, int], prompts: Sequence[list[int]], params: SamplingParams, n: int
    ) -> None:
        """Let all prompts wait, the longest first: neighbours then pad little, and the last answers
        to run are short ones. They start once some rows are free together.
        """
        for id, index in sorted(places.items(), key=lambda item: -len(prompts[item[1]])):
            request = Request(id, prompts[index], params, n, speculate=False, whole=True)
            request.number = index
            self.add(request)
        self.scheduler.chunk = max(self.chunk, OFFLINE_CHUNK)
        self.scheduler.patience = max(1, min(self.rows, n * len(prompts)) // 8)

    def renew(self) -> None:
        """Forget what was computed with weights that may have changed since."""
        runner = self.runner
        if elastic(runner) and self.scheduler.idle:
            self.use(runner)
            runner.reserve(0)

    def outputs_of(self, ids: Sequence[str] | dict[str, int]) -> list[Output]:
        """Make a step; the Outputs of these requests. Those of others are held for `step`."""
        found = self.step()
        self.held = [output for output in found if output.id not in ids]
        return [output for output in found if output.id in ids]

    def completion(self, output: Output) -> Completion:
        """A whole answer as a record; its text ends before the end token, a stop string or a
        made-up tag. The error that ended an answer is raised.
        """
        if output.error is not None:
            raise output.error
        assert output.finish is not None and output.finish != "error"
        tops = tuple(token.tops for token in output.drawn)
        return Completion(
            before_tag(output.text, self.tokenizer),
            tuple(output.ids),
            tuple(token.logprob for token in output.drawn),
            output.finish,
            output.stop_reason,
            tops if any(tops) else (),
        )

    def stream(self, prompt_ids: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one answer as they are drawn, without the token that ended it.

        The same tokens as `generate_ids([prompt_ids], params)`.
        """
        self.limits([prompt_ids], params)
        self.renew()
        id = f"#{next(self.serial)}"
        self.add(Request(id, prompt_ids, params, speculate=False))
        try:
            finish = None
            while finish is None:
                for output in self.outputs_of([id]):
                    finish = output.finish
                    if output.error is not None:
                        raise output.error
                    ended = finish == "stop" and not isinstance(output.stop_reason, str)
                    yield from output.ids[:-1] if ended else output.ids
        finally:
            self.cancel(id)

    def embed(
        self,
        prompts: Sequence[list[int]],
        adapter: str | None = None,
        pool: Literal["last", "mean"] = "last",
    ) -> Tensor:
        """The last hidden state after each prompt, or the mean over its tokens: [prompts, dim].

        InputError: a prompt that is empty or too long, an unknown adapter or pool, or no room in
        the cache while others are answered.
        """
        if pool not in ("last", "mean"):
            raise InputError(f"pool: {pool!r} given, expected last or mean")
        self.refuse_adapter(adapter)
        self.limits(prompts, SamplingParams(max_tokens=1))
        return torch.stack([self.embedding(ids, adapter, pool == "mean") for ids in prompts])

    def embedding(self, ids: list[int], adapter: str | None, mean: bool) -> Tensor:
        """The vector of one prompt, read piece by piece."""
        need = blocks_for(len(ids))
        if elastic(self.runner):
            missing = need - self.blocks.available
            if missing > 0:
                self.runner.reserve(self.blocks.count + missing)
                self.blocks.grow(self.runner.n_blocks)
        if need > self.blocks.available:
            raise InputError(f"{len(ids)} tokens do not fit in the cache beside what runs")
        blocks = [self.blocks.take() for _ in range(need)]
        total = None
        try:
            for start in range(0, len(ids), self.chunk):
                piece = ids[start : start + self.chunk]
                last = start + len(piece) == len(ids)
                wanted = len(piece) if mean else int(last)
                found = self.runner.embed([Row(piece, start, blocks, wanted, adapter)])
                if wanted:
                    part = found.double().sum(0)
                    total = part if total is None else total + part
        finally:
            self.blocks.release(blocks)
        assert total is not None
        return (total / len(ids) if mean else total).float()
