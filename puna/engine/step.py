"""One step of the engine: a pass over the planned rows, then the draws, each answer by itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from puna.engine.drawing import Drawn, Undrawable, draw
from puna.engine.proposals import Guesses
from puna.engine.runner import Row, Runner
from puna.engine.scheduler import Plan, Scheduler, Work
from puna.engine.sequence import Finish
from puna.engine.sequence import Sequence as Answer

SCORED = 64  # rows of logits whose log-softmax is held at once


@dataclass(eq=False)
class Output:
    """What is new of one answer: its tokens since the last Output, and text that may be shown.

    The text can lag behind the tokens (half a character, what may become a stop string); all pieces
    together are the whole text. `finish` is set in the last Output only, with `timings`: figures
    by name, in seconds and tokens (`Timings.summary`). finish "error": the exception is in `error`.
    prompt_logprobs: one for each token of the prompt, None for the first; comes once.
    """

    id: str
    sample: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str | int | None = None
    timings: dict[str, float] | None = None
    prompt_logprobs: list[Drawn | None] | None = None
    error: Exception | None = None


class Step:
    """What turns a plan into Outputs; `last` fills in an answer's last one and lets it go."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        guesses: Guesses,
        eos_id: int,
        last: Callable[[Answer, Output], Output],
    ):
        self.runner, self.scheduler, self.guesses = runner, scheduler, guesses
        self.eos_id, self.last = eos_id, last
        self.outputs: dict[Answer, Output] = {}

    def run(self, now: float) -> list[Output]:
        """Make one step at the time `now`; an answer that cannot go on ends with an error."""
        speculating = self.guesses.prepare(self.scheduler.running)
        plan = self.scheduler.plan(self.guesses.propose if speculating else None)
        for work in plan.works:
            work.sequence.timings.admitted = work.sequence.timings.admitted or now
        try:
            logits = self.compute(plan)
        except Exception as error:
            for work in plan.works:
                for answer in (work.sequence, *work.sequence.followers):
                    self.fail(answer, error)
            return list(self.outputs.values())
        self.draws(self.heads(plan.works, logits), logits)
        return list(self.outputs.values())

    def compute(self, plan: Plan) -> Tensor:
        """Copy what has to be, and pass over the rows: logits of what is wanted, in order."""
        for source, target in plan.copies:
            self.runner.copy_block(source, target)
        return self.runner.forward(
            [
                Row(
                    work.tokens(),
                    work.start,
                    work.sequence.blocks,
                    work.wanted,
                    work.sequence.request.adapter,
                    work.sequence.turn,
                )
                for work in plan.works
            ]
        )

    def heads(self, works: Sequence[Work], logits: Tensor) -> list["Head"]:
        """The answers that can draw now; a prompt that is read starts its other samples."""
        heads, first, scheduler = [], 0, self.scheduler
        for work in works:
            answer = work.sequence
            answer.computed = work.start + work.count
            scheduler.keep(answer)
            if not answer.ids and answer.scoring:
                self.score(work, logits[first : first + work.wanted])
            if answer.left == 0:
                place = first + work.wanted - 1 - len(work.proposed)
                heads.append(Head(answer, place, work.proposed))
                for follower in scheduler.fork(answer) if answer.followers else ():
                    follower.timings.admitted = answer.timings.admitted
                    heads.append(Head(follower, place, []))
            first += work.wanted
        return heads

    def score(self, work: Work, logits: Tensor) -> None:
        """Note the log-probabilities of the prompt's tokens behind those that were computed."""
        answer, prompt = work.sequence, work.sequence.prompt_ids
        answer.scored = answer.scored or [None]
        following = prompt[work.start + 1 : work.start + work.count + 1]
        tops = answer.request.prompt_logprobs or 0
        answer.scored += scored(logits[: len(following)], following, tops)
        if answer.left == 0:
            self.output(answer).prompt_logprobs = answer.scored

    def draws(self, heads: list["Head"], logits: Tensor) -> None:
        """Draw a token for every head, and the next ones while the guesses were right."""
        guessing = [head for head in heads if head.proposed]
        for head in guessing:
            head.answer.timings.proposed += len(head.proposed)
        while heads:
            going = []
            for head, drawn in zip(heads, self.draw(heads, logits), strict=True):
                if isinstance(drawn, Exception):
                    self.fail(head.answer, drawn)
                    continue
                right = head.guessed == drawn.id
                head.answer.timings.accepted += right  # also in the step that ends the answer
                if self.push(head.answer, drawn) and right:
                    going.append(head.next())
            heads = going
        for head in guessing:
            self.guesses.learn(head.answer, len(head.proposed), head.done)

    def draw(self, heads: Sequence["Head"], logits: Tensor) -> list[Drawn | Exception]:
        """A token for each head, or what went wrong with it alone.

        Answers are independent, and a random number is used up when its token is pushed: so a draw
        can be made again.
        """
        places = [head.place for head in heads]
        chosen = logits if places == list(range(len(logits))) else logits[places]
        answers = [head.answer for head in heads]
        try:
            return list(draw(chosen, answers, self.eos_id))
        except Undrawable as found:
            return [found.faults.get(i) or one for i, one in enumerate(found.drawn)]  # type: ignore[misc]
        except Exception:
            return [self.alone(chosen[i : i + 1], answer) for i, answer in enumerate(answers)]

    def alone(self, logits: Tensor, answer: Answer) -> Drawn | Exception:
        """A token for one answer, or what went wrong."""
        try:
            return draw(logits, [answer], self.eos_id)[0]
        except Undrawable as found:
            return found.faults[0]
        except Exception as error:
            return error

    def push(self, answer: Answer, drawn: Drawn) -> bool:
        """Append a token; False if the answer ends with it."""
        try:
            answer.push(drawn.id)
            output = self.output(answer)
            output.ids.append(drawn.id)
            output.drawn.append(drawn)
            output.text += answer.stops.push(drawn.id)
            if answer.grammar is not None and not answer.stops.finish:
                answer.grammar.advance(drawn.id)
        except Exception as error:
            self.fail(answer, error)
            return False
        answer.timings.first = answer.timings.first or time.monotonic()
        finish: Finish | None = "stop" if answer.stops.finish else None
        if finish is None and len(answer.ids) >= answer.limit:
            finish = "length"
        if finish:
            answer.finish, answer.stop_reason = finish, answer.stops.reason
            self.outputs[answer] = self.last(answer, output)
        return finish is None

    def fail(self, answer: Answer, error: Exception) -> None:
        """End an answer with an error."""
        answer.finish, answer.error = "error", error
        self.outputs[answer] = self.last(answer, self.output(answer))

    def output(self, answer: Answer) -> Output:
        """This step's Output of an answer; the only one, where nobody looks before the end."""
        if answer.request.whole:
            return answer.output or begun(answer)
        if answer not in self.outputs:
            self.outputs[answer] = Output(answer.request.id, answer.sample)
        return self.outputs[answer]


@dataclass(eq=False)
class Head:
    """Where an answer draws its next token: a row of the logits, and what was guessed for it."""

    answer: Answer
    place: int
    proposed: list[int]
    done: int = 0  # guesses that were right

    @property
    def guessed(self) -> int | None:
        """The token that was guessed for this draw, if any."""
        return self.proposed[self.done] if self.done < len(self.proposed) else None

    def next(self) -> "Head":
        """The draw behind a right guess, whose keys and values are there."""
        self.done += 1
        self.answer.computed += 1
        self.place += 1
        return self


def begun(answer: Answer) -> Output:
    """An Output that an answer keeps until it ends."""
    answer.output = output = Output(answer.request.id, answer.sample)
    return output


def scored(logits: Tensor, following: Sequence[int], tops: int) -> list[Drawn]:
    """Log-probabilities of these tokens, each under its row of [T, V], and the `tops` likeliest."""
    found = []
    for start in range(0, len(following), SCORED):
        part = logits[start : start + SCORED].float().log_softmax(dim=-1)
        values, ids = part.topk(tops, dim=-1)
        for place, token in enumerate(following[start : start + SCORED]):
            pairs = zip(ids[place].tolist(), values[place].tolist(), strict=True)
            found.append(Drawn(token, float(part[place, token]), tuple(pairs)))
    return found
