"""The next token of every answer in a batch, each drawn by its own settings and random number.

What is done to an answer's logits, in this order, and only where its settings ask for it: what the
grammar forbids is dropped; `logit_bias` is added; tokens of the prompt and the answer lose by
`repetition_penalty` (a logit above 0 is divided, one below multiplied); tokens of the answer lose
by `presence_penalty` once and by `frequency_penalty` for each time; before `min_tokens` tokens the
end token and `stop_ids` are dropped, unless nothing else may follow. The token is then the
likeliest (temperature 0), or drawn after temperature, top-k, top-p and min-p
(`puna.numerics.sampling`).

The log-probabilities that are told are the model's own: before all of this, at temperature 1.

Nothing is computed across rows: a row's token depends on its logits and settings alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from puna.engine.grammar import GrammarState
from puna.errors import InputError
from puna.numerics.sampling import likeliest, pick
from puna.text.completion import SamplingParams


class Drawable(Protocol):
    """An answer as far as drawing its next token needs it."""

    params: SamplingParams
    prompt_ids: list[int]
    ids: list[int]  # of the answer so far
    grammar: GrammarState | None  # after `ids`

    def uniform(self) -> float:
        """The answer's next random number in [0, 1); called once for each token."""
        ...


class Drawn(NamedTuple):
    """A token, its log-probability in nats, and the likeliest tokens in its place with theirs."""

    id: int
    logprob: float
    tops: tuple[tuple[int, float], ...]


class Undrawable(Exception):
    """Some rows have no next token; those of the others are in `drawn`.

    `faults` says for each such row what is wrong: an InputError about its grammar, or a
    FloatingPointError about the model's logits. `drawn` is what `draw` would return, with None for
    these rows. Every row's random number is used up.
    """

    def __init__(self, faults: Mapping[int, Exception], drawn: Sequence[Drawn | None]) -> None:
        """Keep both; the text names all rows."""
        super().__init__("; ".join(f"row {row}: {fault}" for row, fault in faults.items()))
        self.faults, self.drawn = dict(faults), list(drawn)


@torch.inference_mode()
def draw(logits: Tensor, rows: Sequence[Drawable], eos_id: int) -> list[Drawn]:
    """The next token of each row from logits [len(rows), V]; changes nothing but random numbers.

    `eos_id` is the model's end token. Undrawable if a row's logits are not finite, or its grammar
    fails, or leaves no token; the other rows are drawn all the same.
    """
    if len(logits) != len(rows):
        raise ValueError(f"logits of {len(logits)} rows, expected {len(rows)}")
    logits = logits.float()
    faults: dict[int, Exception] = {}
    ids = torch.zeros(len(rows), dtype=torch.long, device=logits.device)
    uniforms = [row.uniform() for row in rows]
    plain = [index for index, row in enumerate(rows) if not touches(row)]
    touched = [index for index, row in enumerate(rows) if touches(row)]
    if plain:
        part = logits if not touched else logits[plain]
        ids[plain] = _pick(part, [rows[i] for i in plain], [uniforms[i] for i in plain])
    if touched:
        part = logits[touched]  # a copy
        for index, own in zip(touched, part, strict=True):
            try:
                shape(own, rows[index], eos_id)
            except InputError as error:
                faults[index] = error
        ids[touched] = _pick(part, [rows[i] for i in touched], [uniforms[i] for i in touched])
    return _told(logits, ids, rows, faults)


def touches(row: Drawable) -> bool:
    """Whether the row's settings change its logits before the temperature does."""
    params = row.params
    return bool(
        row.grammar
        or params.logit_bias
        or params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or len(row.ids) < params.min_tokens
    )


def shape(logits: Tensor, row: Drawable, eos_id: int) -> None:
    """Change a row's logits [V] in place, as its settings say; InputError by its grammar."""
    params, device = row.params, logits.device
    if row.grammar:
        logits.masked_fill_(~row.grammar.mask().to(device), -torch.inf)
    if params.logit_bias:
        ids, biases = zip(*params.logit_bias, strict=True)
        logits[list(ids)] += torch.tensor(biases, dtype=logits.dtype, device=device)
    if params.repetition_penalty != 1:
        seen = torch.from_numpy(np.unique(_array(row.prompt_ids + row.ids))).to(device)
        values, factor = logits[seen], params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / factor, values * factor)
    if row.ids and (params.presence_penalty or params.frequency_penalty):
        said, counts = np.unique(_array(row.ids), return_counts=True)
        lost = params.presence_penalty + params.frequency_penalty * counts
        logits[torch.from_numpy(said).to(device)] -= torch.from_numpy(lost).to(logits)
    if len(row.ids) < params.min_tokens:
        ends = [eos_id, *params.stop_ids]
        kept = logits[ends]
        logits[ends] = -torch.inf
        if logits.max() == -torch.inf:  # the grammar wants to end here
            logits[ends] = kept


def _told(
    logits: Tensor, ids: Tensor, rows: Sequence[Drawable], faults: dict[int, Exception]
) -> list[Drawn]:
    """The records of drawn ids [B]; Undrawable if there are faults, or a logprob is not finite."""
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
    drawn: list[Drawn | None] = []
    for index, (row, id, logprob) in enumerate(zip(rows, ids.tolist(), chosen, strict=True)):
        if not math.isfinite(logprob):
            faults.setdefault(index, FloatingPointError("the model's logits are not finite"))
        if index in faults:
            drawn.append(None)
            continue
        count = row.params.logprobs
        tops = likeliest(logprobs[index], count) if count else ()
        drawn.append(Drawn(id, logprob, tops))
    if faults:
        raise Undrawable(faults, drawn)
    return [token for token in drawn if token]


def _pick(logits: Tensor, rows: Sequence[Drawable], uniforms: Sequence[float]) -> Tensor:
    """The ids [B] of rows whose logits [B, V] are as their settings want them."""
    settings = [(row.params.temperature, row.params.top_p, row.params.min_p) for row in rows]
    temperature, top_p, min_p, uniform = torch.tensor(
        [(*values, number) for values, number in zip(settings, uniforms, strict=True)],
        dtype=torch.float32,
        device=logits.device,
    ).T
    top_k = torch.tensor([row.params.top_k for row in rows], device=logits.device)
    return pick(logits, temperature, top_p, top_k, min_p, uniform)


def _array(ids: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.fromiter(ids, np.int64, len(ids))
