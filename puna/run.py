"""The folder of one stage: its settings, its lock, its metrics, its result.

config.toml    the complete settings; `puna sft FOLDER/config.toml` is the same run again
metrics.jsonl  one JSON object a line: step, the numbers, seconds (summed over restarts)
clock.json     time, processor time and energy so far, so that they add up over restarts
run.lock       the process that works in this folder
stage.json     figures and costs; written last, so a stage is finished if and only if it exists
"""

import atexit
import contextlib
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from puna import allocator, console
from puna import config as settings
from puna.costs import Costs
from puna.errors import InputError
from puna.lock import Lock

CLOCK_EVERY = 1.0  # seconds between two writes of clock.json


class Run:
    """The folder of one stage while a process works in it; a context that is closed at the end."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock
        self._metrics = folder / "metrics.jsonl"
        self._costs = Costs(_read(folder / "clock.json"))
        self._saved = 0.0

    @classmethod
    def start(cls, folder: Path, config: Any) -> "Run":
        """Makes or re-opens the folder for these settings.

        Raises `InputError` when another live process works in it, or when it was made with other
        settings.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file, expected a folder")
        text = settings.dump(config)
        _check_settings(folder, text)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{folder}: a file stands in its path, expected folders") from None
        lock = Lock.take(folder / "run.lock")
        try:
            if not (folder / "config.toml").exists():
                _write(folder / "config.toml", text)
            run = cls(folder, lock)
            run._mend()
        except BaseException:
            lock.release()
            raise
        if run.done:
            lock.release()
        else:
            atexit.register(run.close)
            allocator.keep_memory()
        return run

    @property
    def done(self) -> bool:
        """Whether the stage is finished."""
        return (self.folder / "stage.json").exists()

    @property
    def figures(self) -> dict[str, Any]:
        """The figures that `finish` was given; empty before that."""
        return dict(_read(self.folder / "stage.json").get("figures", {}))

    @property
    def costs(self) -> dict[str, Any]:
        """Seconds, peak memory (MB), processor seconds, energy (Wh) of the finished stage; empty
        before that.
        """
        costs = _read(self.folder / "stage.json")
        costs.pop("figures", None)
        return costs

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this stage so far, summed over restarts."""
        return self._costs.seconds

    def log(self, step: int, **numbers: Any) -> None:
        """Appends one line to metrics.jsonl and shows it. Numbers may be tensors of one element.

        JSON has no NaN: numbers that are not finite are written as the texts "nan", "inf", "-inf".
        """
        row = {name: _number(value) for name, value in numbers.items()}
        line = json.dumps({"step": step, **row, "seconds": round(self.seconds, 2)}, allow_nan=False)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        console.current().log(step, row)
        self._tick()

    def rewind(self, step: int) -> None:
        """After a resume at `step`: drops the metrics lines of that step and later ones."""
        self._keep(lambda row: row["step"] < step)

    def track(
        self, total: int, label: str, done: int = 0
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar for `total` items, `done` of them done before a resume; gives
        `advance(k)`.
        """
        return self._track(total, label, done)

    @contextlib.contextmanager
    def _track(self, total: int, label: str, done: int) -> Iterator[Callable[[int], None]]:
        with console.current().track(total, label, done) as show:

            def advance(items: int) -> None:
                show(items)
                self._tick()

            yield advance

    def finish(self, **figures: Any) -> dict[str, Any]:
        """Writes stage.json, the mark of a finished stage, and closes; the figures as written."""
        record = {"figures": _json(figures), **self._costs.summary()}
        _write(self.folder / "stage.json", json.dumps(record, indent=2, allow_nan=False) + "\n")
        (self.folder / "clock.json").unlink(missing_ok=True)
        self.close()
        return self.figures

    def close(self) -> None:
        """Saves the clock of an unfinished stage and gives the folder free; also done at exit."""
        atexit.unregister(self.close)
        if self._lock.held:
            if not self.done:
                self._save_clock()
            self._lock.release()
            allocator.release()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def _tick(self) -> None:
        if time.monotonic() - self._saved >= CLOCK_EVERY:
            self._save_clock()

    def _save_clock(self) -> None:
        self._saved = time.monotonic()
        self._lock.touch()
        _write(self.folder / "clock.json", json.dumps(self._costs.totals()) + "\n", durable=False)

    def _mend(self) -> None:
        """Drops the torn last line that a killed process may have left."""
        if self._metrics.exists() and not self._metrics.read_bytes().endswith(b"\n"):
            self._keep(lambda row: True)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrites metrics.jsonl with the wanted lines only; only a torn last line is dropped
        unasked.
        """
        if not self._metrics.exists():
            return
        lines = self._metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = []
        for number, line in enumerate(
            lines[:-1], 1
        ):  # what follows the last newline is empty or torn
            try:
                row = json.loads(line)
                if wanted(row):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self._metrics}:{number}: is not a line of metrics") from None
        _write(self._metrics, "".join(kept))


def _check_settings(folder: Path, text: str) -> None:
    """Refuses a folder that was made with other settings; names the first that differs."""
    path = folder / "config.toml"
    if not path.exists():
        return
    differs = settings.difference(settings.read_toml(path), tomllib.loads(text))
    if differs:
        name, old, new = differs
        raise InputError(
            f"{folder} was made with other settings: {name} was {old!r} and is now {new!r}; "
            "choose another folder or remove it"
        )


def _number(value: Any) -> Any:
    """A value that JSON knows: numbers of other libraries become float."""
    if value is None or isinstance(value, bool | int | str):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _json(value: Any) -> Any:
    """`_number` through dictionaries and lists; paths become text."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return str(value) if isinstance(value, Path) else _number(value)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where there is no such file. Raises `InputError` for anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise InputError(f"{path}: is damaged, remove it") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object")
    return record


def _write(path: Path, text: str, durable: bool = True) -> None:
    """Replaces a file in one step: a reader, or a crash, sees the old text or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
