"""The real worker with faults planted in it: `python -m tests.planted_worker --model PLACE ...`.

A request whose seed is `DRAW_SEED` fails when its fourth token is drawn; a prompt that begins with
`PASS_PROMPT` fails in the forward pass. Every pass takes a little longer, so that requests meet.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from puna.engine import step, worker
from puna.engine.torch_runner import TorchRunner
from puna.kernels.decoder import Decoder

DRAW_SEED = 666
PASS_PROMPT = [300, 301, 300, 301, 300, 301]
PAUSE = 0.003  # seconds


def plant() -> None:
    """Put the faults in their places."""
    draw = step.draw

    def failing(logits: Any, rows: Any, eos_id: int) -> Any:
        if any(row.params.seed == DRAW_SEED and len(row.ids) == 3 for row in rows):
            raise ZeroDivisionError("planted in the draw")
        return draw(logits, rows, eos_id)

    step.draw = failing
    for runner in (Decoder, TorchRunner):
        runner.forward = slowed(runner.forward)  # type: ignore[method-assign]


def slowed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass that takes longer, and fails at the planted prompt."""

    def passing(runner: Any, rows: Any) -> Any:
        time.sleep(PAUSE)
        if any(list(row.tokens[: len(PASS_PROMPT)]) == PASS_PROMPT for row in rows):
            raise ZeroDivisionError("planted in the pass")
        return forward(runner, rows)

    return passing


if __name__ == "__main__":
    plant()
    sys.exit(worker.main())
