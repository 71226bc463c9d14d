"""A real PostgreSQL for tests: Debian's server in a folder of its own, a new database each time."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

INSTALLED = Path("/usr/lib/postgresql")
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "posix",
    "autovacuum": "off",
    "lc_messages": "C",
    "logging_collector": "off",
}
FAST = {"fsync": "off", "full_page_writes": "off"}  # not where a crash is what is tested


@dataclass
class Postgres:
    """A server that runs; `new()` is the URL of an empty database."""

    folder: Path
    process: subprocess.Popen[bytes]
    made: int = 0
    programs: Path = field(default_factory=Path)

    def url(self, name: str) -> str:
        """The URL of a database, through the server's socket."""
        return f"postgresql://puna@/{name}?host={self.folder}"

    def new(self) -> str:
        """An empty database."""
        self.made += 1
        name = f"puna_{self.made}"
        self.say(f"CREATE DATABASE {name}")
        return self.url(name)

    def say(self, words: str) -> None:
        """A statement to the server itself."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(words.encode())


def programs() -> Path | None:
    """The folder of the newest server that is installed."""
    found = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    other = shutil.which("initdb")
    return Path(other).parent if other else None


def why_not() -> str:
    """Why there can be no server here; empty if there can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return "" if os.geteuid() or _owner() else "no account but root to run PostgreSQL as"


def _owner() -> str | None:
    """Who runs the server where we are root, which it refuses to be run by."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[Postgres]:
    """A server with these settings, ended at the end. The caller has asked `why_not`."""
    owner = None if os.geteuid() else _owner()
    bin_folder = programs()
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix="puna-pg-"))
    try:
        if owner:
            shutil.chown(folder, owner)
        data = folder / "data"
        identity: dict[str, object] = {"user": owner, "extra_groups": []} if owner else {}
        subprocess.run(
            [
                *(bin_folder / "initdb", "-D", data, "-U", "puna", "-A", "trust"),
                *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **identity,  # type: ignore[call-overload]
        )
        wanted = {**SETTINGS, "unix_socket_directories": str(folder), **settings}
        words = [f"-c{name}={value}" for name, value in wanted.items()]
        process = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **identity,  # type: ignore[call-overload]
        )
        server = Postgres(folder, process, programs=bin_folder)
        try:
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Postgres) -> None:
    import psycopg

    end = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(server.url("postgres")).close()
            return
        except psycopg.OperationalError:
            if server.process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this run of tests; skips where there is none."""
    if reason := why_not():
        pytest.skip(reason)
    with running_postgres(**FAST) as server:
        yield server
