"""What all pages share, in a real browser: frame, dialogs, keys, drafts, calls."""

from pathlib import Path

import pytest

from puna.text.tokenizer import Tokenizer
from tests.browser import PHONE, WIDE, Browser
from tests.pages import serving_pages

pytestmark = pytest.mark.slow


def test_every_component_is_accessible_and_small_in_every_light_and_on_every_screen(
    browser: Browser, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        admin = pages.person("Inti", "admin")
        for width, dark in (
            (WIDE, False),
            (WIDE, True),
            (PHONE, False),
            (PHONE, True),
            (320, False),
        ):
            visit = browser.visit(pages, "/gallery", admin, width=width, dark=dark)
            assert visit.inaccessible() == []
            assert visit.overflow() <= 0
            assert visit.faults() == []
            assert visit.weight() < 120_000
            visit.close()
