"""The end of a process at a chosen moment, for tests of what it leaves behind."""

import os
from pathlib import Path

import pytest


class Killed(RuntimeError):
    """Stands for the end of the process at one step of a commit."""


def kill_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise instead of the `number`-th move of a folder (renames of files pass)."""
    left, rename = [number], os.rename

    def move(source, target) -> None:
        if Path(source).is_dir():
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "rename", move)
