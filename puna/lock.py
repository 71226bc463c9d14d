"""The lock of a run's folder: a small file that names the process at work in it."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from puna.errors import InputError

FRESH = (
    60.0  # a lock of another machine counts as live if it was touched in the last so many seconds
)


class Lock:
    """A lock that this process holds. A lock whose process is gone (killed, power cut) is taken
    over.
    """

    def __init__(self, path: Path, mine: dict[str, str | int]) -> None:
        self.path = path
        self._mine = mine

    @classmethod
    def take(cls, path: Path) -> "Lock":
        """Takes the lock at `path`. Raises `InputError` naming the process when a live one holds
        it.
        """
        mine: dict[str, str | int] = {
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "host": socket.gethostname(),
        }
        with _alone(path.parent):
            theirs = _holder(path)
            if theirs is not None and theirs != mine and _alive(path, theirs, mine):
                raise InputError(
                    f"{path.parent}: process {theirs['pid']} on {theirs['host']} works in this "
                    f"folder; wait for it or stop it (if it is gone, remove {path})"
                )
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(json.dumps(mine) + "\n", encoding="utf-8")
            draft.replace(path)
        return cls(path, mine)

    @property
    def held(self) -> bool:
        """Whether the file still names this process."""
        return _holder(self.path) == self._mine

    def touch(self) -> None:
        """Shows other machines that this process is alive."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Gives the folder free, unless somebody else has it by now."""
        if self.held:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def started(pid: int) -> str:
    """When a process started, in the system's own words, so that a reused pid is seen; "" if it
    does not run.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[19]  # field 22: clock ticks since boot
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:  # systems without /proc
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _holder(path: Path) -> dict[str, str | int] | None:
    """Who is named in the file; None for no file or an unreadable one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {"pid", "started", "host"}
    return record if isinstance(record, dict) and names <= record.keys() else None


def _alive(path: Path, theirs: dict[str, str | int], mine: dict[str, str | int]) -> bool:
    """Whether the holder still runs; on another machine, whether it touched the file of late."""
    if theirs["host"] != mine["host"]:
        return time.time() - path.stat().st_mtime < FRESH
    now = started(int(theirs["pid"]))
    return now != "" and now == theirs["started"]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time is inside, so that two cannot take over the same stale lock."""
    try:
        import fcntl
    except ImportError:  # not a Unix system: a small race remains
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network folders cannot lock
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
