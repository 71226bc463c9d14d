"""Batched generation with a key/value cache; rows are refilled as answers end (paper, 3.2.3)."""

from collections.abc import Callable, Iterator, Sequence

from puna.engine.scheduler import Scheduler
from puna.engine.sequence import Sequence as Answer
from puna.engine.slots import Slots
from puna.errors import InputError
from puna.model.transformer import Transformer
from puna.text.completion import Completion, SamplingParams
from puna.text.dialog import Dialog
from puna.text.template import before_tag, encode_prompt
from puna.text.tokenizer import Tokenizer


class Engine:
    """A `Sampler` over a model: up to `rows` answers grow at the same time.

    An answer's random numbers come from (params.seed, index of its dialog, index of the sample)
    only, so it does not depend on what else is in the batch, on `rows`, or on the order of work.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, rows: int = 128):
        if rows < 1:
            raise InputError(f"rows: {rows} given, expected 1 or more")
        self.model, self.tokenizer, self.rows = model, tokenizer, rows

    def load(self, model: Transformer) -> None:
        """Answer with other weights from now on. Nothing is copied: training shows at once."""
        self.model = model

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
        limits = self.limits(prompts, params)
        if n < 1:
            raise InputError(f"n: {n} given, expected 1 or more answers a prompt")
        answers: list[dict[int, Completion]] = [{} for _ in prompts]
        for finished in self.rounds(prompts, limits, params, n):
            for answer in finished:
                answers[answer.prompt][answer.sample] = self.completion(answer)
            if track and finished:
                track(len(finished))
        return [[found[sample] for sample in range(n)] for found in answers]

    def rounds(
        self, prompts: Sequence[list[int]], limits: list[int], params: SamplingParams, n: int
    ) -> Iterator[list[Answer]]:
        """The main loop: start prompts in free rows, advance every answer by a token, again."""
        if not prompts:
            return
        rows = min(self.rows, n * len(prompts))
        length = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
        slots = Slots(self.model, rows, length, params, self.tokenizer.eos_id)
        scheduler = Scheduler(prompts, limits, n, rows, params.seed)
        while slots.running or scheduler.waiting:
            while groups := scheduler.admit(len(slots.running)):
                yield slots.prefill(groups)
            if slots.running:
                yield slots.decode()

    def stream(self, prompt_ids: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one answer as they are drawn, without the end-of-sequence token.

        The same tokens as `generate_ids([prompt_ids], params)`.
        """
        [limit] = self.limits([prompt_ids], params)
        slots = Slots(self.model, 1, len(prompt_ids) + limit, params, self.tokenizer.eos_id)
        [[answer]] = Scheduler([prompt_ids], [limit], 1, 1, params.seed).admit(0)
        slots.prefill([[answer]])
        while not answer.finish:
            yield answer.ids[-1]
            slots.decode()
        if answer.finish == "length":
            yield answer.ids[-1]

    def limits(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[int]:
        """The most tokens that each answer may have: max_tokens, or what the context leaves."""
        context = self.model.args.max_seq_len
        if params.max_tokens < 1:
            raise InputError(f"max_tokens: {params.max_tokens} given, expected 1 or more")
        for index, ids in enumerate(prompts):
            if not ids:
                raise InputError(f"prompt {index}: no tokens, expected at least one")
            if len(ids) >= context:
                raise InputError(
                    f"prompt {index}: {len(ids)} tokens, "
                    f"expected fewer than the model's context of {context}"
                )
        return [min(params.max_tokens, context - len(ids)) for ids in prompts]

    def completion(self, answer: Answer) -> Completion:
        """The finished answer as a record; its text ends before the end token or a made-up tag."""
        assert answer.finish is not None
        spoken = answer.ids[:-1] if answer.finish == "stop" else answer.ids
        text = before_tag(self.tokenizer.decode(spoken), self.tokenizer)
        return Completion(text, tuple(answer.ids), tuple(answer.logprobs), answer.finish)
