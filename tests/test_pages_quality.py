"""Every page as a browser sees it, on a store that is full: light, quiet, of its own host, and
usable by everybody."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from puna.text.tokenizer import Tokenizer
from puna.web.site.app import all_routes
from tests.browser import PHONE, WIDE, Browser
from tests.filled import Filled, fill
from tests.pages import Pages, Person, serving_pages

pytestmark = pytest.mark.slow

HEAVIEST = 200_000  # bytes of a page with all that it loads
NOBODY = ("/login", "/welcome")  # pages that are seen before one is logged in
HERS = ("/annotate/{campaign:int}", "/chat/{number:int}", "/redteam/attempts/{id:int}")
OTHERWISE = ("/api/", "/static/")  # what is no page
PATHS = sorted(
    route.path
    for route in all_routes()
    if route.method == "GET" and not route.path.startswith(OTHERWISE)
)


@dataclass
class Full:
    """A server before a store with data."""

    pages: Pages
    filled: Filled

    def who(self, path: str) -> Person | None:
        """Who looks at a page: the admin; whose it is; nobody."""
        if path in NOBODY:
            return None
        return self.pages.person("Ana Flores" if path in HERS else "Rita Quispe")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Full]:
    with serving_pages(tmp_path_factory.mktemp("pages"), tiny_tokenizer) as served:
        yield Full(served, fill(served.store, "tiny"))


def test_there_are_pages() -> None:
    assert {"/", "/login", "/chat", "/annotate", "/quality", "/redteam", *HERS} <= set(PATHS)


def test_every_page_with_a_number_in_its_path_has_one_in_the_store(full: Full) -> None:
    assert [path for path in PATHS if "{" in full.filled.url(path)] == []


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_light_quiet_and_accessible(browser: Browser, full: Full, path: str) -> None:
    for width in (WIDE, PHONE):
        url = full.filled.url(path)
        visit = browser.visit(full.pages, url, full.who(path), width=width)
        assert [answer.url for answer in visit.answers if answer.status >= 400] == []
        assert visit.weight() < HEAVIEST
        assert visit.page.title()
        assert visit.page.locator("h1:visible:not(.answer h1)").count() == 1
        assert visit.inaccessible() == []
        visit.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        assert visit.inaccessible("color-contrast") == []
        for narrower in (width, 768 if width == WIDE else 320):
            visit.page.set_viewport_size({"width": narrower, "height": 800})
            assert visit.overflow() <= 0, narrower
        assert visit.faults() == []
        visit.close()
