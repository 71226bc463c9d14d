"""A real browser for tests: Debian's Chromium, logged in as somebody, that keeps what went wrong.

def test_a_page(browser: Browser, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        visit = browser.visit(pages, "/chat", pages.person("Anna"))
        visit.page.get_by_role("button", name="Send").click()
        assert visit.faults() == []
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from puna.web.site.door import COOKIE
from tests.pages import Pages, Person

WIDE, PHONE = 1280, 390  # pixels
LISTEN = """addEventListener("securitypolicyviolation", (event) => pageViolated(
  `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""


@dataclass
class Visit:
    """One window that somebody looks at, and everything that it did."""

    page: Any  # playwright's Page
    url: str  # the server's
    errors: list[str] = field(default_factory=list)  # console errors, scripts that failed
    violations: list[str] = field(default_factory=list)  # of the content security policy
    answers: list[Any] = field(default_factory=list)  # playwright's Responses

    def open(self, path: str) -> "Visit":
        """Go to a path of the server and wait until the page has what it asked for."""
        self.page.goto(self.url + path, wait_until="load")
        return self.settle()

    def settle(self, seconds: float = 3.0) -> "Visit":
        """Wait until nothing is asked for; pages that never stop get so many seconds."""
        with contextlib.suppress(_timeout()):
            self.page.wait_for_load_state("networkidle", timeout=seconds * 1000)
        return self

    def foreign(self) -> list[str]:
        """What was asked of other hosts."""
        own = urlsplit(self.url).netloc
        return [a.url for a in self.answers if urlsplit(a.url).netloc not in ("", own)]

    def weight(self) -> int:
        """The bytes that came, heads and bodies, as they went over the wire."""
        total = 0
        for answer in self.answers:
            with contextlib.suppress(Exception):  # an answer that still runs, or was left
                sizes = answer.request.sizes()
                total += sizes["responseBodySize"] + sizes["responseHeadersSize"]
        return total

    def faults(self) -> list[str]:
        """Everything that should not have happened."""
        return [*self.errors, *self.violations, *self.foreign()]

    def inaccessible(self, *rules: str) -> list[str]:
        """What axe-core finds by these rules (none: by all), one line a rule with its first
        element."""
        from axe_playwright_python.sync_playwright import Axe

        wanted = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = Axe().run(self.page, options=wanted).response["violations"]
        return [
            f"{rule['id']} ({len(rule['nodes'])}): {rule['nodes'][0]['html'][:160]} "
            f"{rule['nodes'][0]['failureSummary'][:300]}"
            for rule in found
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def close(self) -> None:
        """Close the window and forget its cookies."""
        self.page.context.close()


@dataclass
class Browser:
    """Opens windows."""

    chromium: Any
    visits: list[Visit] = field(default_factory=list)

    def visit(
        self,
        pages: Pages,
        path: str = "/",
        person: Person | None = None,
        *,
        width: int = WIDE,
        height: int = 860,
        dark: bool = False,
        **options: Any,
    ) -> Visit:
        """A window of its own at `path`, logged in as `person`; options: of new_context."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            has_touch=width < 600,
            **options,
        )
        context.set_default_timeout(10_000)
        if person is not None:
            cookie = {"name": COOKIE, "value": person.cookie, "url": pages.running.url}
            context.add_cookies([cookie])
        seen = Visit(context.new_page(), pages.running.url)
        context.expose_binding("pageViolated", lambda _, text: seen.violations.append(text))
        context.add_init_script(LISTEN)
        seen.page.on("response", lambda answer: seen.answers.append(answer))
        seen.page.on("pageerror", lambda error: seen.errors.append(f"{error}"))
        seen.page.on("console", lambda said: _keep(seen, said))
        self.visits.append(seen)
        return seen.open(path)


def _keep(visit: Visit, said: Any) -> None:
    if said.type in ("error", "warning"):
        visit.errors.append(f"{said.type}: {said.text}")


def _timeout() -> type[Exception]:
    from playwright.sync_api import TimeoutError as Late

    return Late


def found() -> str:
    """The path of a Chromium, or nothing: $CHROMIUM, or what is installed."""
    named = os.environ.get("CHROMIUM", "")
    places = [named] if named else ["/usr/bin/chromium", shutil.which("chromium") or ""]
    return next((place for place in places if place and Path(place).is_file()), "")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium process for the tests of a file; no asyncio.run beside it in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = found()
    if not path:
        pytest.skip("needs Chromium: /usr/bin/chromium is not there (set CHROMIUM)")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    """Windows for one test."""
    opened = Browser(chromium)
    yield opened
    for visit in opened.visits:
        with contextlib.suppress(Exception):
            visit.close()
