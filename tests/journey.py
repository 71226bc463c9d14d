"""What the journey of `test_journey.py` is made of: a real server, people in a real browser."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.web.site.door import COOKIE
from tests.browser import LISTEN, PHONE, WIDE
from tests.pictures import keep

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "four wild llamas walking"


@dataclass
class Served:
    """`puna serve --web` in a process of its own, and the lines that it says."""

    process: subprocess.Popen[str]
    lines: "queue.Queue[str]"
    said: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str, seconds: float = 120) -> "re.Match[str]":
        """The next line that holds a pattern."""
        while True:
            line = self.lines.get(timeout=seconds)
            self.said.append(line)
            assert not line.startswith("puna serve:"), "".join(self.said)
            if found := re.search(pattern, line):
                return found


@contextlib.contextmanager
def served(store: Path, *models: str, port: int = 0) -> Iterator[Served]:
    """A server with these models; ends when the block ends."""
    command = [sys.executable, "-m", "puna", "serve", *models, "--web", f"--store={store}"]
    options = [f"--port={port}", "--threads=1", "--grace=1"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reading = threading.Thread(target=_read, args=(process.stderr, lines), daemon=True)
    reading.start()
    try:
        yield Served(process, lines)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        reading.join(5)
        process.stderr.close()


def _read(stream: Any, lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)


def puna(*words: str) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "puna", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@dataclass
class Someone:
    """A person at a window of their own."""

    name: str
    page: Any  # playwright's
    base: str
    faults: list[str]
    pictures: Path

    def open(self, path: str) -> Any:
        """Go to a page and wait until it has what it asked for."""
        self.page.goto(self.base + path, wait_until="load")
        with contextlib.suppress(Exception):
            self.page.wait_for_load_state("networkidle", timeout=3000)
        return self.page

    def picture(self, name: str, full: bool = False) -> None:
        """Keep what can be seen now."""
        keep(self.page, self.pictures / f"{name}.png", full)

    def come_in(self, link: str) -> None:
        """Take up an invitation."""
        self.page.goto(link)
        self.page.get_by_label("Name").fill(self.name)
        self.page.get_by_label("Password", exact=True).fill(PASSWORD)
        self.page.get_by_role("button", name="Come in").click()
        self.page.wait_for_url(f"{self.base}/")


def someone(
    chromium: Any,
    name: str,
    base: str,
    pictures: Path,
    *,
    dark: bool = False,
    phone: bool = False,
    cookie: str = "",
) -> Someone:
    """A new window, logged in if there is a cookie; what goes wrong in it is kept."""
    context = chromium.new_context(
        viewport={"width": PHONE, "height": 844} if phone else {"width": WIDE, "height": 860},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        has_touch=phone,
    )
    if cookie:
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": base}])
    context.set_default_timeout(15_000)
    page, faults = context.new_page(), []
    context.expose_binding("pageViolated", lambda _, text: faults.append(text))
    context.add_init_script(LISTEN)
    page.on("pageerror", lambda error: faults.append(f"{name}: {error}"))
    page.on("request", lambda asked: _same_host(asked.url, base, faults))
    return Someone(name, page, base, faults, pictures)


def _same_host(url: str, base: str, faults: list[str]) -> None:
    if not url.startswith((base, "data:", "blob:")):
        faults.append(f"asked {url}")
