"""The loop under the engine: requests go in, steps are made, tokens come out."""

import time
from collections.abc import Sequence

import torch

from puna.engine.blocks import Blocks, blocks_for
from puna.engine.grammar import Grammars
from puna.engine.packing import live_runner, runner_for
from puna.engine.proposals import Draft, Guesses
from puna.engine.runner import Runner, elastic
from puna.engine.scheduler import CHUNK, Scheduler
from puna.engine.sequence import Ends, Finish, Request
from puna.engine.sequence import Sequence as Answer
from puna.engine.step import Output, Step
from puna.engine.stops import Stops
from puna.engine.torch_runner import TorchRunner
from puna.errors import InputError
from puna.kernels.decoder import Decoder
from puna.model.transformer import Transformer
from puna.text.completion import MAX_TOPS, SamplingParams
from puna.text.tokenizer import Tokenizer


class Loop:
    """The answers that run and wait, over a runner; `puna.engine.engine.Engine` is its front.

    draft: a runner of a smaller model with the same tokenizer, which guesses tokens.
    """

    def __init__(
        self,
        model: Transformer | Runner,
        tokenizer: Tokenizer,
        rows: int = 128,
        *,
        chunk: int = CHUNK,
        draft: Runner | None = None,
    ):
        if rows < 1:
            raise InputError(f"rows: {rows} given, expected 1 or more")
        if chunk < 1:
            raise InputError(f"chunk: {chunk} given, expected 1 token or more")
        self.tokenizer, self.rows, self.chunk = tokenizer, rows, chunk
        self.grammars: Grammars | None = None  # made when somebody asks for one
        self.held: list[Output] = []  # of answers that nobody has asked for yet
        self.totals: dict[str, int] = dict.fromkeys(
            [
                *("steps", "prompt_tokens", "cached_tokens", "generated_tokens"),
                *("finished", "cancelled", "failed", "proposed", "accepted"),
            ],
            0,
        )
        self.use(model)
        self.guesses = Guesses(tokenizer.eos_id, Draft(draft) if draft else None)
        if draft and draft.vocab_size != self.runner.vocab_size:
            raise InputError(
                f"draft: a vocabulary of {draft.vocab_size} ids, "
                f"expected the model's {self.runner.vocab_size}"
            )

    def use(self, model: Transformer | Runner) -> None:
        """Begin with a model, and an empty cache."""
        self.runner: Runner = live_runner(model) if isinstance(model, Transformer) else model
        self.blocks = Blocks(self.runner.n_blocks)
        self.scheduler = Scheduler(self.blocks, self.rows, self.chunk)

    @property
    def model(self) -> Transformer:
        """The module that answers. AttributeError where a packed model does."""
        return self.runner.model  # type: ignore[attr-defined]

    def load(self, model: Transformer | Runner) -> None:
        """Answer with other weights from now on. A packed model is packed again; one in training
        is read anew for each call.

        RuntimeError while answers are being generated.
        """
        if not self.scheduler.idle:
            raise RuntimeError("weights cannot change while answers are being generated")
        runner = self.runner
        if isinstance(model, Transformer) and elastic(runner):
            self.use(model)
        elif isinstance(model, Transformer) and isinstance(runner, TorchRunner):
            runner.load(model)
            self.blocks.forget()
        elif isinstance(model, Transformer) and isinstance(runner, Decoder):
            self.use(runner_for(model, runner.kind, runner.n_blocks, runner.threads))
        else:
            self.use(model)

    # requests

    def add(self, request: Request) -> None:
        """Let a request wait for its turn. InputError: it cannot be answered."""
        if any(s.request.id == request.id for s in self.scheduler.sequences()):
            raise InputError(f"id {request.id!r} is in use")
        if request.n < 1:
            raise InputError(f"n: {request.n} given, expected 1 or more answers a prompt")
        tops = request.prompt_logprobs
        if tops is not None and not 0 <= tops <= MAX_TOPS:
            raise InputError(f"prompt_logprobs: {tops} given, expected 0 to {MAX_TOPS}")
        if request.params.max_tokens < 1:
            raise InputError(f"max_tokens: {request.params.max_tokens} given, expected 1 or more")
        self.refuse_adapter(request.adapter)
        request.params.fits(self.runner.vocab_size)
        limit = self.limit(request.prompt_ids, request.params, "prompt")
        grammar = request.params.grammar
        if grammar and self.grammars is None:
            self.grammars = Grammars(self.tokenizer)
        compiled = self.grammars.compile(grammar) if grammar and self.grammars else None
        now = time.monotonic()
        stops = Ends if request.whole and not request.params.stop else Stops
        answers = []
        for sample in range(request.n):
            answer = Answer(request, sample, limit)
            answer.grammar = compiled.fresh() if compiled else None
            answer.stops = stops(self.tokenizer, request.params)
            answer.timings.arrived = now
            answers.append(answer)
        answers[0].followers = answers[1:]
        self.scheduler.add(answers[0])

    def refuse_adapter(self, name: str | None) -> None:
        """InputError if the runner has no such adapter."""
        known = self.runner.adapters
        if name is not None and name not in known:
            expected = ", ".join(known) or "none: there are no adapters"
            raise InputError(f"adapter {name!r} is unknown, expected {expected}")

    def limits(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[int]:
        """The most tokens that each answer may have: max_tokens, or what the context leaves."""
        return [self.limit(ids, params, f"prompt {i}") for i, ids in enumerate(prompts)]

    def limit(self, ids: list[int], params: SamplingParams, name: str) -> int:
        """The most tokens that an answer may have. InputError: no room, or an unknown token."""
        room, vocabulary = self.room, self.runner.vocab_size
        if not ids:
            raise InputError(f"{name}: no tokens, expected at least one")
        if len(ids) >= self.runner.context:
            raise InputError(
                f"{name}: {len(ids)} tokens, "
                f"expected fewer than the model's context of {self.runner.context}"
            )
        if len(ids) >= room:
            raise InputError(f"{name}: {len(ids)} tokens, expected fewer than the cache's {room}")
        if not (min(ids) >= 0 and max(ids) < vocabulary):
            raise InputError(f"{name}: holds a token that is not one of 0 to {vocabulary - 1}")
        return min(params.max_tokens, self.runner.context - len(ids), room - len(ids))

    @property
    def room(self) -> int:
        """The most tokens that one answer and its prompt can have."""
        if elastic(self.runner):
            return self.runner.context
        return self.runner.n_blocks * self.runner.block_size

    def cancel(self, id: str) -> list[Output]:
        """End a request at once; the last Outputs of its answers, none if there is no such one."""
        self.held = [output for output in self.held if output.id != id]
        found = [s for s in self.scheduler.sequences() if s.request.id == id]
        self.totals["cancelled"] += bool(found)
        return [self.end(answer, "cancelled") for answer in found]

    def end(self, answer: Answer, finish: Finish, error: Exception | None = None) -> Output:
        """Take an answer out, whatever it was doing, and say so."""
        answer.finish, answer.error = finish, error
        output = answer.output or Output(answer.request.id, answer.sample)
        return self.last(answer, output)

    def last(self, answer: Answer, output: Output) -> Output:
        """Fill in the last Output of an answer, and give back what it held."""
        self.scheduler.remove(answer)
        self.guesses.drop(answer)
        if answer.finish == "length":  # one that is broken off ends before what is undecided
            output.text += answer.stops.flush()
        output.finish, output.stop_reason = answer.finish, answer.stop_reason
        output.error = answer.error
        times, prompt = answer.timings, len(answer.prompt_ids)
        output.timings = times.summary(prompt, len(answer.ids), time.monotonic())
        self.totals["failed"] += answer.finish == "error"
        self.totals["finished"] += answer.finish in ("stop", "length")
        self.totals["proposed"] += times.proposed
        self.totals["accepted"] += times.accepted
        if times.admitted:
            self.totals["prompt_tokens"] += prompt
            self.totals["cached_tokens"] += times.cached_tokens
        self.totals["generated_tokens"] += len(answer.ids)
        return output

    # steps

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute and nothing to tell."""
        return self.scheduler.idle and not self.held

    @property
    def counters(self) -> dict[str, float]:
        """Figures by name: what runs, what waits, the blocks, and totals since the beginning."""
        scheduler, blocks = self.scheduler, self.blocks
        waiting = sum(1 for _ in scheduler.sequences()) - len(scheduler.running)
        now = {
            "running": len(scheduler.running),
            "waiting": waiting,
            "blocks": blocks.count,
            "blocks_free": len(blocks.free),
            "blocks_cached": len(blocks.cached),
            "blocks_used": blocks.used,
            "blocks_evicted": blocks.evicted,
            "preemptions": scheduler.preemptions,
        }
        return {name: float(value) for name, value in (now | self.totals).items()}

    def step(self) -> list[Output]:
        """Advance every running answer, read more of the prompts; what came of it."""
        held, self.held = self.held, []
        return held + self.advance()

    @torch.inference_mode()
    def advance(self) -> list[Output]:
        """One step, without what is held."""
        now = time.monotonic()
        late = [
            answer
            for answer in self.scheduler.sequences()
            if answer.request.deadline is not None and now >= answer.request.deadline
        ]
        outputs = [self.end(answer, "deadline") for answer in late]
        if self.scheduler.idle:
            return outputs
        self.reserve()
        self.totals["steps"] += 1
        eos_id = self.tokenizer.eos_id
        step = Step(self.runner, self.scheduler, self.guesses, eos_id, self.last)
        return outputs + step.run(now)

    def reserve(self) -> None:
        """Make an elastic cache large enough for all that may run at once."""
        runner = self.runner
        if not (elastic(runner) and self.scheduler.fresh):
            return
        self.scheduler.fresh = False
        answers = self.scheduler.sequences()
        sizes = sorted(blocks_for(len(a.prompt_ids) + a.limit) for a in answers)
        needed = sum(sizes[-self.rows :]) + self.rows  # one more each, to go on while others start
        if needed > runner.n_blocks:
            runner.reserve(needed)
            self.blocks.grow(needed)
