"""What all pages share, in a real browser: frame, dialogs, keys, drafts, calls."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.text.tokenizer import Tokenizer
from puna.web.site.navigation import ENTRIES, entries
from puna.web.site.viewer import Viewer
from tests.browser import PHONE, WIDE, Browser, Visit
from tests.pages import Pages, serving_pages

STATIC = Path(__file__).resolve().parent.parent / "puna/web/site/static"
CALL = """([method, path, options]) => import('/static/puna.js')
  .then(p => p.api(method, path, {}, options))"""
FAULT = ".catch(e => [e.name, e.status, e.message, e.param, e.code])"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("pages"), tiny_tokenizer) as served:
        yield served


@pytest.fixture
def visit(browser: Browser, pages: Pages) -> Visit:
    return browser.visit(pages, "/gallery", pages.person("Inti", "admin"))


def answers(visit: Visit, path: str, *replies: dict[str, Any]) -> list[Any]:
    """Let these answer calls of `path`, the last one over and over. Returns what is asked."""
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request)
        reply = replies[min(len(asked), len(replies)) - 1]
        if reply.get("lost"):
            route.abort("connectionreset")
        else:
            route.fulfill(**{"content_type": "application/json", "body": "{}", **reply})

    visit.page.route(visit.url + path, answer)
    return asked


def fault(message: str, param: str | None = None, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "param": param, "code": code}})


def test_no_script_is_longer_than_400_lines_and_the_style_is_below_30_kilobytes() -> None:
    lengths = {p.name: len(p.read_text("utf-8").splitlines()) for p in STATIC.glob("*.js")}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    assert (STATIC / "puna.css").stat().st_size < 30_000


def test_every_entry_of_the_bar_has_a_picture() -> None:
    drawn = re.findall(r'<symbol id="(\w+)"', (STATIC / "icons.svg").read_text("utf-8"))
    assert len(drawn) == len(set(drawn))
    assert {entry.glyph for entry in ENTRIES} <= set(drawn)


def test_the_bar_shows_pages_that_exist_to_those_who_may_see_them() -> None:
    there = {"/chat": "annotator", "/quality": "reviewer", "/people": "admin"}
    seen = {
        role: [entry.name for entry in entries(Viewer(1, "Anna", role), "/quality/3", there)]
        for role in ("annotator", "reviewer", "admin", "")
    }
    assert seen == {
        "annotator": ["Chat"],
        "reviewer": ["Chat", "Quality"],
        "admin": ["Chat", "Quality", "People"],
        "": [],
    }
    [current] = [e.name for e in entries(Viewer(1, "A", "admin"), "/quality/3", there) if e.current]
    assert current == "Quality"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (WIDE, True), (PHONE, True), (320, 0)])
def test_every_component_passes_axe_in_every_light_and_on_every_screen(
    browser: Browser, pages: Pages, width: int, dark: bool
) -> None:
    visit = browser.visit(pages, "/gallery", pages.person("Inti", "admin"), width=width, dark=dark)
    assert visit.inaccessible() == []
    assert visit.overflow() <= 0
    assert visit.faults() == []


@pytest.mark.slow
def test_axe_finds_a_planted_fault(visit: Visit) -> None:
    visit.page.evaluate("document.querySelector('#g-name').id = 'gone'")
    assert any(rule.startswith("label ") for rule in visit.inaccessible())


@pytest.mark.slow
def test_what_can_be_pressed_on_a_phone_is_44_pixels_high(browser: Browser, pages: Pages) -> None:
    visit = browser.visit(pages, "/gallery", pages.person("Inti", "admin"), width=PHONE)
    small = visit.page.evaluate("""[...document.querySelectorAll(
        "main button, .button, .top button, .pages a, .choices label, select, .tabs a")]
        .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44)
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert small == []


@pytest.mark.slow
def test_the_theme_that_was_chosen_is_there_before_the_next_page_is_painted(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Use the dark theme").click()
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.route("**/puna.js", lambda route: route.abort())  # only theme.js runs
    page.goto(visit.url + "/gallery")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == dark
    assert dark == "rgb(19, 22, 27)"


@pytest.mark.slow
def test_a_session_that_ended_asks_for_the_password_and_keeps_what_was_typed(visit: Visit) -> None:
    page = visit.page
    page.fill("#g-note", "a long comment")
    asked = answers(
        visit,
        "/api/me",
        {"status": 401, "body": fault("log in first", code="login")},
        {"body": '{"name": "Inti"}'},
    )
    answers(
        visit,
        "/api/login",
        {"status": 400, "body": fault("name or password is not right")},
        {"body": "{}"},
    )
    page.keyboard.press("Control+Enter")
    dialog = page.get_by_role("dialog", name="Please log in again")
    assert dialog.get_by_label("Name").input_value() == "Inti"
    dialog.get_by_label("Password").fill("wrong wrong")
    dialog.get_by_role("button", name="Log in").click()
    dialog.get_by_text("name or password is not right").wait_for()
    dialog.get_by_label("Password").fill("right right")
    dialog.get_by_role("button", name="Log in").click()
    page.locator("#g-said", has_text="Inti").wait_for()
    assert page.input_value("#g-note") == "a long comment"
    assert len(asked) == 2 and not dialog.is_visible()


@pytest.mark.slow
def test_a_call_says_what_went_wrong(visit: Visit) -> None:
    told = {}
    for status, body, headers in (
        (409, fault("somebody was faster", code="conflict"), {}),
        (400, fault("overlap: 9, at most 5", "overlap"), {}),
        (429, fault("too many requests"), {"retry-after": "30"}),
        (502, "<html>", {}),
    ):
        answers(visit, f"/api/{status}", {"status": status, "body": body, "headers": headers})
        told[status] = visit.page.evaluate(f"{CALL}{FAULT}", ["POST", f"/api/{status}", {}])
    answers(visit, "/api/lost", {"lost": True})
    told[0] = visit.page.evaluate(f"{CALL}{FAULT}", ["POST", "/api/lost", {}])
    assert told[409] == ["ApiError", 409, "somebody was faster", None, "conflict"]
    assert told[400] == ["ApiError", 400, "overlap: 9, at most 5", "overlap", None]
    assert told[429][2] == "too many requests Try again in 30 s."
    assert told[502][:2] == ["ApiError", 502] and "cannot be reached" in told[502][2]
    assert told[0][:2] == ["ApiError", 0] and "cannot be reached" in told[0][2]


@pytest.mark.slow
def test_only_a_call_that_counts_once_is_sent_again(visit: Visit) -> None:
    busy = {"status": 503, "body": fault("busy"), "headers": {"retry-after": "0.05"}}
    once = answers(visit, "/api/once", {"lost": True}, busy, {"body": '{"done": true}'})
    plain = answers(visit, "/api/plain", busy)
    assert visit.page.evaluate(CALL, ["POST", "/api/once", {"key": "k-1"}]) == {"done": True}
    assert [request.headers["idempotency-key"] for request in once] == ["k-1"] * 3
    assert {request.headers["x-csrf"] for request in once} == {
        visit.page.evaluate("document.documentElement.dataset.csrf")
    }
    assert visit.page.evaluate(f"{CALL}{FAULT}", ["POST", "/api/plain", {}])[1] == 503
    assert len(plain) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('data: {"a": 1}\n\ndata: {"a": "ü"}\n\ndata: [DONE]\n\n', [[1, "ü"], None]),
        (': ping\r\n\r\ndata: {"a":\r\ndata: 2}\r\n\r\ndata: [DONE]\r\n\r\n', [[2], None]),
        ('data: {"a": 1}\n\n', [[1], "The answer broke off: the connection was lost."]),
        ('data: {"error": {"message": "the engine died"}}\n\n', [[], "the engine died"]),
    ],
    ids=["whole", "lines of Windows, comments, split data", "broken off", "a fault inside"],
)
def test_events_come_one_by_one_and_an_end_that_is_none_is_a_fault(
    visit: Visit, body: str, told: list[Any]
) -> None:
    answers(visit, "/api/stream", {"content_type": "text/event-stream", "body": body})
    heard = visit.page.evaluate("""async () => {
      const { stream } = await import("/static/puna.js");
      const got = [];
      const hear = (event) => got.push(event.a);
      const fault = await stream("/api/stream", {}, hear).then(() => null, (e) => e);
      return [got, fault && fault.message];
    }""")
    assert heard == told


@pytest.mark.slow
def test_keys_work_beside_fields_and_rest_while_somebody_types(visit: Visit) -> None:
    page, said = visit.page, visit.page.locator("#g-said")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert said.inner_text() == "item 2"
    page.focus("#g-note")
    page.keyboard.type("jjk")
    assert said.inner_text() == "item 2" and page.input_value("#g-note") == "jjk"
    page.keyboard.press("Escape")
    assert said.inner_text() == "escaped"
    page.keyboard.press("Control+Enter")
    page.locator("#g-said", has_text="Inti").wait_for()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    shown = page.get_by_role("dialog", name="Keys")
    assert {"Next", "Back", "Submit"} <= set(shown.locator("dt").all_inner_texts())
    page.keyboard.press("k")
    assert said.inner_text() == "Inti"
    shown.get_by_label("Single keys do something").uncheck()
    shown.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    assert said.inner_text() == "Inti"


@pytest.mark.slow
def test_what_was_typed_is_there_after_a_reload_until_it_is_sent(visit: Visit) -> None:
    page = visit.page
    page.fill("#g-note", "half a thought")
    page.reload()
    assert page.input_value("#g-note") == "half a thought"
    page.keyboard.press("Control+Enter")
    page.locator("#g-said", has_text="Inti").wait_for()
    page.reload()
    assert page.input_value("#g-note") == ""


@pytest.mark.slow
def test_a_question_gives_the_focus_back_and_escape_means_no(visit: Visit) -> None:
    page = visit.page
    ask = page.get_by_role("button", name="Ask")
    for press, said in (("Escape", "kept"), ("Enter", "kept"), ("Delete", "deleted")):
        ask.click()
        asked = page.get_by_role("alertdialog")
        assert asked.get_by_role("button", name="Cancel").evaluate(
            "(e) => e === document.activeElement"
        )
        if press == "Delete":
            asked.get_by_role("button", name="Delete").click()
        else:
            page.keyboard.press(press)
        page.locator("#g-said", has_text=said).wait_for()
        assert ask.evaluate("(e) => e === document.activeElement")


@pytest.mark.slow
def test_html_goes_only_through_the_policy_and_nothing_else_may_make_one(visit: Visit) -> None:
    caught = visit.page.evaluate("""() => {
      const tried = (f) => { try { f(); return "done"; } catch (e) { return e.name; } };
      return [tried(() => { document.body.innerHTML = "<b>x</b>"; }),
        tried(() => trustedTypes.createPolicy("puna", {})),
        tried(() => trustedTypes.createPolicy("mine", {}))];
    }""")
    assert caught == ["TypeError", "TypeError", "TypeError"]
    visit.page.wait_for_timeout(100)
    assert {text.split()[0] for text in visit.violations} == {
        "require-trusted-types-for",
        "trusted-types",
    }
    set_html = "import('/static/puna.js').then(p => p.html(p.$('#g-said'), '<b>ok</b>').innerHTML)"
    assert visit.page.evaluate(set_html) == "<b>ok</b>"


@pytest.mark.slow
def test_a_chart_has_its_figures_in_a_table_and_no_chart_breaks_on_none(visit: Visit) -> None:
    rows = visit.page.locator("#g-line table tbody tr").all_inner_texts()
    assert len(rows) == 5 and "0.52 (0.45 to 0.59)" in rows[0]
    drawn = visit.page.evaluate("""async () => {
      const { chart, el } = await import("/static/puna.js");
      return ["line", "bar", "stack"].flatMap((kind) => [
        [], [["a", null], ["b", 2]], [[1, 0]], [[1, -3], [2, 4, null, null]],
      ].map((values) => {
        const place = el("div");
        chart(place, { kind, series: [{ name: "s", values }] });
        return /NaN|undefined|Infinity/.test(place.innerHTML);
      }));
    }""")
    assert drawn == [False] * 12
