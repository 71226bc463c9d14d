"""The chat page in a real browser: by keyboard, with hostile texts, two tabs, back, a phone."""

from collections.abc import Iterator

import pytest

from tests.browser import PHONE, Browser
from tests.pages import Pages, serving_pages
from tests.test_site_chat import hostile_file
from tests.web import until

ANSWER = "## Tea\n\nBoil **water**, then:\n\n- wait\n\n```python\na = 1\n```\n\nDone."


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("chat"), tiny_tokenizer) as found:
        yield found


def say(page, text: str) -> None:
    """Type something and send it by keyboard."""
    page.fill("#text", text)
    page.press("#text", "Control+Enter")


def test_a_talk_by_keyboard_edit_branch_copy_and_compare(browser: Browser, pages: Pages):
    fake = pages.running.fake
    fake.reset()
    fake.script = lambda asked, sample: f"{ANSWER} At {asked.params.temperature}."
    anna = pages.person("Anna")
    visit = browser.visit(pages, "/chat", anna)
    page = visit.page
    say(page, "How do I make tea?")
    page.wait_for_selector(".assistant .figures")
    assert page.inner_text("#title") == "How do I make tea?"
    assert page.inner_text(".assistant h2") == "Tea"
    assert page.locator(".code button").count() == 1
    page.click("[aria-label^=Edit]")
    page.fill(".turn.user textarea", "How do I make coffee?")
    page.press(".turn.user textarea", "Control+Enter")
    page.wait_for_selector(".turn.user .branches")
    page.wait_for_selector(".assistant .figures")
    page.locator("#scroll").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=How do I make tea? >> nth=0")
    page.click("#compare")
    say(page, "And milk?")
    page.wait_for_selector(".verdict")
    assert page.locator(".beside .assistant").count() == 2
    page.click(".verdict [aria-label='second: slightly better']")
    page.wait_for_selector(".verdict", state="detached")
    assert "At 1.1." in page.locator(".assistant .answer").last.inner_text()
    page.locator("[aria-label='A bad answer']").last.click()
    page.click("dialog label:has-text('wrong')")
    page.fill("#thumb-rewrite", "With water.")
    page.click("dialog button.primary")
    page.wait_for_selector("[aria-label='A bad answer'][aria-pressed=true]")
    assert visit.faults() == [] and visit.foreign() == []


def test_escape_stops_the_engine_and_the_text_goes_on_from_there(browser: Browser, pages: Pages):
    fake = pages.running.fake
    fake.reset()
    fake.pause, fake.script = 0.01, lambda asked, sample: "tea and more " * 200
    visit = browser.visit(pages, "/chat", pages.person("Anna"))
    page = visit.page
    say(page, "tea?")
    page.wait_for_selector(".assistant .answer >> text=tea and")
    page.locator("#scroll").focus()
    page.keyboard.press("Escape")
    assert until(lambda: len(fake.cancelled) == 1) and not fake.running
    page.wait_for_selector("button:has-text('Continue')")
    fake.pause, fake.script = 0.0, lambda asked, sample: " is all"
    page.click("button:has-text('Continue')")
    page.wait_for_selector("button:has-text('Continue')", state="detached")
    page.wait_for_selector(".assistant .figures")
    assert page.inner_text(".assistant .answer").strip().endswith("is all")
    assert visit.faults() == []


def test_what_was_typed_outlives_a_reload_and_a_second_tab_sees_the_answer(
    browser: Browser, pages: Pages
):
    fake = pages.running.fake
    fake.reset()
    fake.script = lambda asked, sample: "yes"
    anna = pages.person("Anna")
    visit = browser.visit(pages, "/chat", anna)
    page = visit.page
    say(page, "one?")
    page.wait_for_selector(".assistant .figures")
    page.fill("#text", "not sent yet")
    page.wait_for_timeout(400)
    page.reload()
    page.wait_for_selector(".assistant .figures")
    assert page.input_value("#text") == "not sent yet"
    path = page.url.removeprefix(pages.running.url)
    other = browser.visit(pages, path, anna)
    other.page.wait_for_selector(".assistant .figures")
    assert other.page.inner_text("#title") == "one?"
    page.click("#new")
    page.wait_for_selector("#empty:not([hidden])")
    page.go_back()
    page.wait_for_selector(".assistant .figures")
    assert visit.faults() == [] and other.faults() == []


def test_hostile_strings_in_every_text_run_nothing_and_load_nothing(browser: Browser, pages: Pages):
    anna = pages.person("Mallory <script>window.hacked=1</script>")
    file = hostile_file()
    assert anna.http.post("/api/chat/import", json=file).status_code == 200
    turns: list[dict[str, object]] = []
    for one in file["conversations"]:
        for turn in one["turns"]:
            number = len(turns) + 1
            turns.append(turn | {"id": number, "parent": number - 1 or None})
    all_in_one = {"title": "all <img src=x>", "leaf": len(turns), "turns": turns}
    reply = anna.http.post("/api/chat/import", json=file | {"conversations": [all_in_one]})
    (number,) = reply.json()["conversations"]
    visit = browser.visit(pages, f"/chat/{number}", anna)
    page = visit.page
    page.wait_for_selector(f"[data-id] >> nth={len(turns) - 1}", state="attached")
    page.wait_for_selector("#list li >> nth=39")
    page.click("#more")
    page.wait_for_selector("#list li >> nth=79")
    page.locator("[aria-label^=Edit]").first.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".answer img, .answer script, .answer iframe, .answer svg").count() == 0
    assert visit.faults() == [] and visit.foreign() == []


@pytest.mark.parametrize("width", [1280, PHONE])
def test_the_page_is_accessible_fits_its_width_and_is_light(browser: Browser, pages: Pages, width):
    fake = pages.running.fake
    fake.reset()
    fake.script = lambda asked, sample: ANSWER
    visit = browser.visit(pages, "/chat", pages.person("Anna"), width=width)
    assert visit.inaccessible() == []
    say(visit.page, "tea?")
    visit.page.wait_for_selector(".assistant .figures")
    visit.page.click("#open-settings")
    assert visit.inaccessible() == []
    assert visit.overflow() == 0
    assert visit.weight() < 200_000
    assert visit.faults() == []
