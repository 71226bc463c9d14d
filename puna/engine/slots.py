"""The rows of the batch: keys and values of the running answers, and the passes over them."""

import torch
from torch import Tensor

from puna.engine.scheduler import moves
from puna.engine.sequence import Sequence
from puna.model.transformer import Cache, Transformer
from puna.numerics.sampling import sample
from puna.text.completion import SamplingParams

COLUMN_STEP = 16  # the attended part of the cache grows in steps of so many columns


def round_up(length: int) -> int:
    """The next multiple of COLUMN_STEP."""
    return -(-length // COLUMN_STEP) * COLUMN_STEP


class Slots:
    """Rows 0 .. len(running)-1 hold the running answers, without holes: nothing else is computed.

    All keys and values are one tensor [2, n_layers, rows, n_kv_heads, length, head_dim], so that
    moving a row is one copy and not one for each layer. It starts as zeros, because even a masked
    column is multiplied (by a weight of 0).
    """

    def __init__(
        self, model: Transformer, rows: int, length: int, params: SamplingParams, eos: int
    ):
        args, weight = model.args, model.output.weight
        self.model, self.eos, self.device = model, eos, weight.device
        self.length = round_up(length)
        shape = (2, args.n_layers, rows, args.kv_heads, self.length, args.head_dim)
        self.storage = torch.zeros(shape, dtype=weight.dtype, device=self.device)
        self.cache = Cache(args, 0, 0, dtype=weight.dtype, device=self.device)
        self.running: list[Sequence] = []
        self.temperature = torch.full((rows,), float(params.temperature), device=self.device)
        self.top_p = torch.full((rows,), float(params.top_p), device=self.device)
        self.top_k = torch.full((rows,), int(params.top_k), device=self.device)

    @torch.inference_mode()
    def prefill(self, groups: list[list[Sequence]]) -> list[Sequence]:
        """Read each group's prompt once, copy it to a row for each sample, draw the first tokens.

        Returns the answers that are finished already.
        """
        prompts = [group[0].prompt_ids for group in groups]
        width, first = max(map(len, prompts)), len(self.running)
        padded = [ids + [0] * (width - len(ids)) for ids in prompts]
        # What padding writes is never read: a row overwrites a column before it looks at it.
        positions = torch.arange(width, device=self.device).expand(len(prompts), width)
        cache = self.view(first, first + len(prompts), width)
        hidden = self.model.hidden(self.tensor(padded), positions, cache=cache)
        last = self.tensor([len(ids) - 1 for ids in prompts])
        hidden = hidden[torch.arange(len(prompts), device=self.device), last]  # [prompts, dim]

        logits, owners = self.model.output(hidden), list(range(len(prompts)))
        self.running += [group[0] for group in groups]
        for row, group in enumerate(groups):
            if group[1:]:
                self.copy(first + row, len(self.running), len(group) - 1, len(prompts[row]))
                self.running += group[1:]
                owners += [row] * len(group[1:])
        self.draw(logits[self.tensor(owners)], self.running[first:])
        return self.retire()

    @torch.inference_mode()
    def decode(self) -> list[Sequence]:
        """One more token for every running answer; returns those that are finished now."""
        running = self.running
        tokens = self.tensor([[sequence.ids[-1]] for sequence in running])
        places = [sequence.position for sequence in running]
        cache = self.view(0, len(running), min(round_up(max(places) + 1), self.length))
        hidden = self.model.hidden(tokens, self.tensor(places)[:, None], cache=cache)
        self.draw(self.model.output(hidden[:, 0]), running)
        return self.retire()

    def draw(self, logits: Tensor, sequences: list[Sequence]) -> None:
        """Draw the next token of each sequence from logits [len(sequences), vocab_size]."""
        count = len(sequences)
        uniform = torch.tensor([sequence.uniform() for sequence in sequences], device=self.device)
        temperature, top_p, top_k = self.temperature, self.top_p, self.top_k
        ids, logprobs = sample(
            logits.float(), temperature[:count], top_p[:count], top_k[:count], uniform
        )
        for sequence, token, logprob in zip(
            sequences, ids.tolist(), logprobs.tolist(), strict=True
        ):
            sequence.push(token, logprob, self.eos)

    def retire(self) -> list[Sequence]:
        """Take finished answers out and close the holes with the last rows."""
        running = self.running
        finished = [row for row, sequence in enumerate(running) if sequence.finish]
        if not finished:
            return []
        done = [running[row] for row in finished]
        for source, target in moves(finished, len(running)):
            self.copy(source, target, 1, running[source].position)
            running[target] = running[source]
        del running[len(running) - len(finished) :]
        return done

    def copy(self, source: int, target: int, count: int, columns: int) -> None:
        """Copy the first columns of row `source` to `count` rows from `target` on."""
        rows = self.storage[..., :columns, :]
        rows[:, :, target : target + count].copy_(rows[:, :, source : source + 1])

    def view(self, start: int, stop: int, used: int) -> Cache:
        """The cache of rows start .. stop-1, looked at up to column `used`."""
        keys, values = self.storage[:, :, start:stop].unbind(0)
        self.cache.k, self.cache.v = list(keys.unbind(0)), list(values.unbind(0))
        self.cache.used = used
        return self.cache

    def tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Whole numbers as a tensor on the model's device."""
        return torch.tensor(numbers, dtype=torch.long, device=self.device)
