"""Stages in order: each is shown, skipped where it is finished, and has to pass its gate."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.console import Board
from puna.errors import GateError, InputError


@dataclass(frozen=True)
class Gate:
    """A check on a stage's figures: the text says what was wanted, with the figures in braces."""

    passes: Callable[[Mapping[str, Any]], bool]
    wanted: str


@dataclass
class Pipeline:
    """Runs stages one after the other under `folder` and remembers what each found."""

    folder: Path
    board: Board
    gates: bool = True  # False: a failed check is noted, not fatal
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        main: Callable[[Any], dict],
        config: Any,
        key: str = "",
        gate: Sequence[Gate] = (),
    ) -> dict[str, Any]:
        """Run `main(config)`, check its figures, show `key` ("loss {held_out_loss:.2f}"); returns
        the figures.

        GateError: the stage ran, but its figures fail a check; the line names the stage, the
        figures and the want.
        """
        finished = (config.run / "stage.json").exists()
        self.board.begin(name)
        started = time.monotonic()
        try:
            figures = main(config)
        except InputError as error:
            self.board.fail(name, str(error))
            raise type(error)(f"{name}: {error}") from None
        except BaseException:
            self.board.fail(name, "stopped")
            raise
        self.figures[name] = figures
        shown = key.format_map(figures) if key else ""
        if finished:
            self.board.skip(name, shown)
        else:
            self.board.end(name, shown, time.monotonic() - started)
        for check in gate:
            self.check(name, check, figures)
        return figures

    def check(self, name: str, gate: Gate, figures: Mapping[str, Any]) -> None:
        """Stop the run where a stage's figures are not good enough to build on."""
        if gate.passes(figures):
            return
        line = f"{name} failed its check: {gate.wanted.format_map(figures)}"
        self.board.note(line)
        if self.gates:
            raise GateError(f"{line} (--gates.stop=false goes on regardless)")
