"""Every page as a browser sees it: light, quiet, of its own host, and usable by everybody."""

from collections.abc import Iterator

import pytest

from puna.text.tokenizer import Tokenizer
from puna.web.site.app import all_routes
from tests.browser import PHONE, WIDE, Browser
from tests.pages import Pages, serving_pages

pytestmark = pytest.mark.slow

HEAVIEST = 200_000  # bytes of a page with all that it loads
NOBODY = ("/login", "/welcome")  # pages that are seen before one is logged in
PATHS = sorted(
    route.path
    for route in all_routes()
    if route.method == "GET" and not route.path.startswith("/api/") and "{" not in route.path
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("pages"), tiny_tokenizer) as served:
        yield served


def test_there_are_pages() -> None:
    assert {"/", "/login", "/chat", "/annotate", "/quality", "/redteam"} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_light_quiet_and_accessible(browser: Browser, pages: Pages, path: str) -> None:
    person = None if path in NOBODY else pages.person("Inti", "admin")
    for width in (WIDE, PHONE):
        for dark in (False, True):
            visit = browser.visit(pages, path, person, width=width, dark=dark)
            assert visit.faults() == []
            assert visit.inaccessible() == []
            assert visit.overflow() <= 0
            assert visit.weight() < HEAVIEST
            assert (
                visit.page.title() and visit.page.locator("h1:visible:not(.answer h1)").count() == 1
            )
            visit.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_page_fits_in_320_pixels(browser: Browser, pages: Pages, path: str) -> None:
    person = None if path in NOBODY else pages.person("Inti", "admin")
    assert browser.visit(pages, path, person, width=320).overflow() <= 0
