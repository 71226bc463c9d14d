"""The whole human loop in a real browser: invited, qualified, judging, measured, exported, learnt
from, served, compared, and judged again.

PUNA_PICTURES=docs/pages keeps a picture of every page; PUNA_JOURNEY=runs/cafe takes the models of a
finished run instead of tiny ones that were trained for seconds.
"""

import os
import re
from pathlib import Path

import pytest

from benchmarks.kill_resume import MICRO, run_whole
from tests.journey import Someone, served, someone

pytestmark = pytest.mark.slow

PROMPTS = (
    "What does a latte cost?",
    "When do you open on Sunday?",
    "Do you have anything without milk?",
    "Two espressos and a croissant, please.",
    "Which tea would you recommend on a cold day?",
    "Is there walnut in the banana bread?",
    "Can I pay by card?",
    "What is the smallest thing on the menu?",
    "Who made the coffee today?",
    "Do you serve breakfast after noon?",
    "How much are a tea and a scone together?",
    "What would you take with a flat white?",
)
TEST = (
    ("Do you have oat milk?", "Yes, for every drink.", "Go away.", 0),
    ("Where can I sit?", "No.", "By the window, or outside.", 1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the paper."""
    if given := os.environ.get("PUNA_JOURNEY"):
        return Path(given).absolute()
    folder = tmp_path_factory.mktemp("paper") / "run"
    run_whole(MICRO, folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(os.environ.get("PUNA_PICTURES", tmp_path / "pictures"))


def invited(admin: Someone, who: str, role: str) -> str:
    """The link of an invitation that the admin makes."""
    page = admin.open("/people")
    page.locator(f"#invite input[value={role}]").check(force=True)
    page.get_by_label("For whom").fill(who)
    page.get_by_role("button", name="Make a link").click()
    link: str = page.locator("dialog #link").input_value()
    page.get_by_role("button", name="Done").click()
    return link


def begun(admin: Someone) -> str:
    """A campaign that the admin makes, with a test, and prompts that the engine answers ahead."""
    page = admin.open("/campaigns/new")
    page.locator("input[name=kind][value=preference]").check(force=True)
    page.get_by_label("Name").fill("The cafe, first week")
    page.get_by_label("People for each item").fill("2")
    page.get_by_label("Pass mark of the test").fill("50")
    page.get_by_label("Gold items").fill("0")
    for place, temperature in enumerate(("0.7", "1")):
        row = page.locator(".variant").nth(place)
        row.locator("[data-part=model]").fill("first")
        row.locator("[data-part=temperature]").fill(temperature)
        row.locator("[data-part=max_tokens]").fill("40")
    admin.picture("campaign-new", full=True)
    page.get_by_role("button", name="Create campaign").click()
    page.wait_for_url(re.compile(r"/campaigns/\d+$"))
    path = page.url.removeprefix(admin.base)
    page.get_by_role("tab", name="Add items").click()
    page.locator("input[name=for][value=qualification]").check(force=True)
    for prompt, first, second, better in TEST:
        page.locator("#b-prompt").fill(prompt)
        page.locator("#b-first").fill(first)
        page.locator("#b-second").fill(second)
        page.locator(f"#b-chosen input[value='{better}']").check(force=True)
        page.get_by_role("button", name="Put on the list").click()
    admin.picture("campaign-items", full=True)
    page.get_by_role("button", name="Store 2 items").click()
    page.locator("#result").get_by_text("2 items").wait_for()
    page.locator("input[name=for][value=normal]").check(force=True)
    page.locator("#text").fill("\n".join(PROMPTS))
    page.get_by_role("button", name="Add a batch").click()
    page.locator("#result").get_by_text("12 items").wait_for()
    page.get_by_role("button", name="Open").click()
    return path


def test_people_judge_a_model_and_the_next_one_learns_from_it(
    chromium: object, run: Path, pictures: Path, tmp_path: Path
) -> None:
    store, first = tmp_path / "puna.db", f"first={run / 'sft' / 'checkpoint'}"
    with served(store, first) as server:
        link = server.wait_for(r"(http://\S+)/welcome#(\S+)")
        base = link[1]
        server.wait_for("ready")
        admin = someone(chromium, "Rita", base, pictures)
        admin.come_in(link[0])
        admin.picture("home")
        links = {name: invited(admin, name, "annotator") for name in ("Ana", "Ben")}
        admin.picture("people")
        campaign = begun(admin)
        admin.open(campaign)
        admin.picture("campaign")
        assert admin.faults == []
