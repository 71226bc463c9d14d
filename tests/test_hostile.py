"""Hostile strings in every text that anybody can send, then every page that shows them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle
from typing import Any

import pytest

from puna.store.tables import Account
from puna.text.tokenizer import Tokenizer
from puna.web.site.app import all_routes
from puna.web.site.site import Site
from puna.web.site.tries import Rates
from tests import web
from tests.browser import Browser
from tests.campaigns import rules
from tests.hostile import HOSTILE, RUN
from tests.pages import Pages, Person, add_account, serving_pages
from tests.test_site_chat import hostile_file
from tests.test_site_redteam import events
from tests.web import until

ALL = "\n\n".join(HOSTILE)
LINES = [" ".join(text.split())[:200] for text in HOSTILE]
WORDS = list(dict.fromkeys(line[:60].strip() for line in LINES))
STEP = 14  # a part of the strings in each of a few requests that each cost a model's answer

HACKED = "[window.hacked, document.querySelectorAll('main img').length]"
OPEN = """() => {
  for (const one of document.querySelectorAll("main details")) one.open = true;
  for (const one of document.querySelectorAll("main [role=tab]")) one.click();
  return document.querySelector("main").textContent + document.title;
}"""  # what is folded away is shown too


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    def change(site: Site) -> None:
        site.rates = Rates(10**6, 10**6, 10**6, 10**6)

    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "CONTEXT", 1 << 16)  # the strings are long
        with serving_pages(folder, tiny_tokenizer, change=change) as found:
            yield found


def ok(who: Person, method: str, path: str, body: Any = None) -> Any:
    """The answer of what must be taken."""
    answer = who.http.request(method, path, json=body)
    assert answer.is_success, (method, path, answer.text[:300])
    return answer.json() if "json" in answer.headers.get("content-type", "") else answer


def fill(pages: Pages) -> dict[str, Any]:
    """Every string into every text: of people, talks, campaigns, judgements, attacks."""
    ada, rita = pages.person("Ada", "admin"), pages.person("Rita", "reviewer")
    anna = pages.person("Anna")
    for number, text in enumerate(LINES):
        ok(ada, "POST", "/api/invites", {"role": "annotator", "note": text})
        made = add_account(pages.store, f"person {number}")
        with pages.store.write() as session:  # names that no invitation would let in
            session.get_one(Account, made).name = text
    talk = talks(anna)
    preference = judged(pages, ada, rita, anna)
    return {"talk": talk, "campaign": preference, **attacked(pages, ada, rita, anna)}


def talks(anna: Person) -> int:
    """A conversation with all strings in it, thumbs, rewrites; others by title."""
    file = hostile_file()
    ok(anna, "POST", "/api/chat/import", file)
    turns: list[dict[str, Any]] = []
    for one in file["conversations"]:
        for turn in one["turns"]:
            number = len(turns) + 1
            turns.append(turn | {"id": number, "parent": number - 1 or None})
    one = {"title": LINES[0], "system": ALL, "leaf": len(turns), "turns": turns}
    (number,) = ok(anna, "POST", "/api/chat/import", file | {"conversations": [one]})[
        "conversations"
    ]
    for text in LINES:
        ok(anna, "POST", "/api/chat/history", {"words": text})
    shown = ok(anna, "GET", f"/api/chat/conversations/{number}")["turns"]
    answers = [turn["id"] for turn in shown if turn["role"] == "assistant"]
    for turn, text in zip(answers, HOSTILE, strict=True):
        thumb = {"up": False, "reasons": [], "comment": text, "rewrite": f"{text} tea"}
        ok(anna, "PUT", f"/api/chat/turns/{turn}/thumb", thumb)
    return int(number)


def judged(pages: Pages, ada: Person, rita: Person, anna: Person) -> int:
    """A preference campaign: rules, prompts, answers, categories, comments, reasons, notes."""
    settings = {"categories": WORDS[:32], "review_share": 1.0}
    changes = {"guidelines": ALL, "settings": settings, "own_prompts": True}
    for line in LINES:
        body = as_body(rules(line, **changes))
        number = ok(ada, "POST", "/api/campaigns", body)["id"]
    lines = []
    for index, text in enumerate(HOSTILE):
        word = WORDS[index % 32]
        answers = [{"text": f"{text} {n}", "model": word, "version": word} for n in "ab"]
        lines.append({"prompt": text, "answers": answers, "category": word, "id": text})
    upload = {"text": "\n".join(map(json.dumps, lines)), "source": LINES[4], "system": ALL[:19_000]}
    ok(ada, "POST", f"/api/campaigns/{number}/batches", upload)
    ok(ada, "POST", f"/api/campaigns/{number}/state", {"state": "open"})
    for text in HOSTILE:
        found = ok(anna, "POST", f"/api/annotate/{number}/next", {})
        task = found.get("task") or found
        where = f"/api/annotate/tasks/{task['task'] if 'task' in task else task['id']}"
        body = {"digest": task["digest"], "chosen": 0, "strength": "better", "comment": text}
        body["safety"] = "both_safe"
        ok(anna, "POST", f"{where}/judgement", body)
    ok(anna, "POST", f"{where}/message", {"text": ALL[:15_000]})
    reviewed(rita)
    cleo = pages.person("Cleo")
    skipped(cleo, number)
    for first in range(0, len(HOSTILE), 40):  # three prompts of one's own may wait at a time
        text = "\n\n".join(HOSTILE[first : first + 40])[:15_000]
        ok(cleo, "POST", f"/api/annotate/{number}/prompts", {"text": text, "category": WORDS[0]})
    return int(number)


def skipped(cleo: Person, number: int) -> None:
    """Tasks that are skipped, each for a reason of its own."""
    for text in HOSTILE:
        task = ok(cleo, "POST", f"/api/annotate/{number}/next", {})["task"]
        if task is None:
            return
        ok(cleo, "POST", f"/api/annotate/tasks/{task['id']}/skip", {"reason": text[:400]})


def as_body(made: Any) -> dict[str, Any]:
    """Rules as the page sends them."""
    return {**asdict(made), "settings": dict(made.settings)}


def reviewed(rita: Person) -> None:
    """Every judgement gets a note."""
    for text in HOSTILE[: len(HOSTILE) - 2]:  # two stay in the queue
        found = ok(rita, "POST", "/api/review/next", {})["next"]
        verdict = {"verdict": "rejected", "note": text}
        ok(rita, "POST", f"/api/review/{found['id']}", verdict)


def attacked(pages: Pages, ada: Person, rita: Person, anna: Person) -> dict[str, int]:
    """Attempts, notes, safe answers, reasons, replays."""
    made = asdict(rules(f"red {LINES[1]}")) | {"kind": "redteam", "aim": "safety"}
    made["guidelines"] = ALL
    made["settings"] = {"risks": WORDS[:32], "vectors": WORDS[32:64], "round": 1}
    one = {"model": "tiny", "temperature": 0.6, "top_p": 0.9, "max_tokens": 4096}
    made |= {"own_prompts": True, "max_turns": 16, "variants": [one]}
    number = ok(ada, "POST", "/api/campaigns", made)["id"]
    ok(ada, "POST", f"/api/campaigns/{number}/state", {"state": "open"})
    place = {"campaign": number, "risk": WORDS[0], "vector": WORDS[32]}
    attempt = ok(anna, "POST", "/api/redteam/attempts", place)["id"]
    path, after = f"/api/redteam/attempts/{attempt}", 0
    for first in range(0, len(HOSTILE), STEP):
        text = "\n\n".join(HOSTILE[first : first + STEP])
        pages.running.fake.script = lambda *_, said=text: said
        said = anna.http.post(f"{path}/messages", json={"after": after, "text": text})
        last = events(said)[-1]
        assert last.get("turn"), last
        after = last["turn"]["id"]
        assert last["turn"]["state"] == "complete" and last["turn"]["text"] == text, last
        mark = {"points": 1, "note": text}
        ok(anna, "PUT", f"/api/redteam/turns/{after}/severity", mark)
    ok(anna, "POST", f"{path}/timer", {"action": "end"})
    for draft in ok(anna, "GET", f"/api/redteam?campaign={number}")["violations"]:
        ok(anna, "PUT", f"/api/redteam/drafts/{draft['id']}", {"answer": ALL[:9000]})
        verdict = {"state": "rejected", "reason": ALL[:1900]}
        ok(rita, "POST", f"/api/redteam/drafts/{draft['id']}/verdict", verdict)
    body = {"model": "tiny", "before": 2, "phrases": [w for w in WORDS if len(w) > 1][:32]}
    parts = cycle(HOSTILE)
    pages.running.fake.script = lambda *_: next(parts)
    replay = ok(rita, "POST", "/api/redteam/replays", body)["id"]
    ok(rita, "POST", f"/api/redteam/replays/{replay}/ask", {})
    pages.running.fake.reset()
    return {"redteam": number, "attempt": attempt, "replay": replay}


def addresses(filled: dict[str, Any], item: int) -> list[tuple[str, str]]:
    """Every page that there is, and who opens it."""
    numbers = {
        "/chat/{number:int}": [("Anna", filled["talk"])],
        "/annotate/{campaign:int}": [("Bert", filled["campaign"])],
        "/campaigns/{id:int}": [("Rita", filled["campaign"]), ("Ada", filled["redteam"])],
        "/campaigns/{id:int}/edit": [("Ada", filled["campaign"]), ("Ada", filled["redteam"])],
        "/redteam/attempts/{id:int}": [("Anna", filled["attempt"]), ("Rita", filled["attempt"])],
        "/redteam/replays/{id:int}": [("Rita", filled["replay"])],
    }
    found = [("Ada", f"/campaigns/{filled['campaign']}/items/{item}")]
    who = {"annotator": ["Anna"], "reviewer": ["Rita"], "admin": ["Ada"], "": ["Ada"]}
    for route in all_routes():
        if route.method != "GET" or route.path.startswith("/api/") or "items/" in route.path:
            continue
        for name, number in numbers.get(route.path, []):
            found.append((name, route.path.split("{")[0] + str(number) + tail(route.path)))
        if "{" not in route.path:
            found += [(name, route.path) for name in who[route.role]]
    return found


def tail(path: str) -> str:
    """What stands behind the number."""
    return path.partition("}")[2]


@pytest.mark.slow
def test_hostile_strings_in_every_text_run_nothing_on_any_page(
    browser: Browser, pages: Pages
) -> None:
    filled = fill(pages)
    ada = pages.person("Ada", "admin")
    items = ok(ada, "GET", f"/api/campaigns/{filled['campaign']}/items")["items"]
    pages.person("Bert")
    windows: dict[str, Any] = {}
    seen, wrong = "", []
    for name, path in addresses(filled, items[0]["id"]):
        visit = windows.get(name)
        if visit is None:
            visit = windows[name] = browser.visit(pages, path, pages.people[name])
        else:
            visit.open(path)
        seen += visit.page.evaluate(OPEN)
        visit.settle(1.0)
        hacked, pictures = visit.page.evaluate(HACKED)
        if hacked is not None or pictures or visit.faults():
            wrong.append((name, path, hacked, pictures, visit.faults()[:3]))
            visit.errors.clear()
            visit.violations.clear()
            visit.answers.clear()
    assert wrong == []
    assert list(pages.site.reports) == []
    assert [line for line in LINES if line[:20].strip() not in seen] == []  # they were there


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [f"<img src=x onerror={RUN}>", "<img src=//evil.invalid/x.png>", f"<svg onload={RUN}>"]
)
def test_a_string_that_became_an_element_would_have_been_noticed(
    browser: Browser, pages: Pages, text: str
) -> None:
    visit = browser.visit(pages, "/", pages.person("Carla"))
    assert visit.faults() == []

    def unescaped(route: Any) -> None:  # as if a template had not escaped it
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</main>", f"{text}</main>"))

    visit.page.route("**/profile", unescaped)
    visit.open("/profile")
    assert until(lambda: visit.page.evaluate("1") and visit.faults())
    assert until(lambda: pages.site.reports)
    pages.site.reports.clear()
