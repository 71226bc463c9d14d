"""The annotation page: over HTTP, and in a browser by keyboard alone (W69, W75)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from puna.store.people import disable
from puna.store.tables import Annotation, Task
from puna.text.tokenizer import Tokenizer
from tests.annotation import campaign
from tests.browser import PHONE, WIDE, Browser
from tests.pages import Pages, Person, serving_pages
from tests.web import until


@pytest.fixture
def pages(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    """A server whose model is away: annotation does not need it."""
    with serving_pages(tmp_path, tiny_tokenizer, ready=False) as pages:
        yield pages


def task_of(person: Person, number: int, *beside: int) -> Any:
    """The next task of somebody."""
    answer = person.http.post(f"/api/annotate/{number}/next", json={"beside": list(beside)})
    assert answer.status_code == 200, answer.text
    return answer.json()["task"]


def judge(person: Person, task: Any, key: str = "", **fields: Any) -> Any:
    """A judgement, as the page sends it."""
    body = {"digest": task["digest"], "chosen": 0, "strength": "better", "safety": "both_safe"}
    headers = {"idempotency-key": key} if key else {}
    path = f"/api/annotate/tasks/{task['id']}/judgement"
    return person.http.post(path, json=body | fields, headers=headers)


def stored(pages: Pages) -> list[Annotation]:
    """All judgements."""
    with pages.store.read() as session:
        return list(session.scalars(select(Annotation).order_by(Annotation.id)))


def test_a_judgement_brings_the_next_task_while_the_model_is_away(pages: Pages) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store)
    task = task_of(anna, number)
    reply = judge(anna, task).json()
    assert reply["task"]["id"] != task["id"]
    assert len(stored(pages)) == 1


def test_the_same_judgement_twice_is_stored_once(pages: Pages) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store)
    task = task_of(anna, number)
    first, second = judge(anna, task, "k1").json(), judge(anna, task, "k1").json()
    assert first["annotation"] == second["annotation"]
    assert len(stored(pages)) == 1
    assert judge(anna, task, "k1", chosen=1).status_code == 409


def test_a_stale_judgement_says_why(pages: Pages) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store)
    task = task_of(anna, number)
    with pages.store.write() as session:
        session.get_one(Task, task["id"]).expires = 0.0
    answer = judge(anna, task)
    assert (answer.status_code, "ran out" in answer.json()["error"]["message"]) == (409, True)


def test_somebody_who_was_shut_out_in_mid_task_stores_nothing(pages: Pages) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store)
    task = task_of(anna, number)
    with pages.store.write() as session:
        disable(session, anna.id)
    assert judge(anna, task).status_code == 401
    assert stored(pages) == []


def test_the_task_of_somebody_else_does_not_exist(pages: Pages) -> None:
    number = campaign(pages.store)
    task = task_of(pages.person("Anna"), number)
    assert judge(pages.person("Ben"), task).status_code == 404


def test_a_task_says_nothing_about_its_item(pages: Pages) -> None:
    task = task_of(pages.person("Anna"), campaign(pages.store, gold_share=0.1))
    names = {"id", "digest", "left", "test", "mine", "turns", "messages", "answers", "before"}
    assert set(task) == names
    assert [set(answer) for answer in task["answers"]] == [{"text", "html"}] * 2


@pytest.mark.parametrize("west", ["x", "1441", "--1", "9" * 20])
def test_a_time_zone_that_is_none_is_refused(pages: Pages, west: str) -> None:
    answer = pages.person("Anna").http.get(f"/api/annotate/{campaign(pages.store)}?west={west}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "west")


def test_an_own_prompt_is_answered_and_judged(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.script = lambda asked, sample: f"answer {len(pages.running.fake.asked)}"
        anna, number = pages.person("Anna"), campaign(pages.store, 0, own_prompts=True)
        path = f"/api/annotate/{number}/prompts"
        assert anna.http.post(path, json={"text": "tea or coffee"}).status_code == 200
        found: list[Any] = []
        assert until(lambda: found.append(task_of(anna, number)) or found[-1], 10)
        assert found[-1]["mine"]
        assert judge(anna, found[-1]).status_code == 200


def test_all_is_done_by_keyboard_and_one_is_undone(pages: Pages, browser: Browser) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store, 3)
    visit = browser.visit(pages, f"/annotate/{number}", anna)
    for keys in ("1b", "0n", "8c"):
        visit.page.wait_for_selector("#scale button")  # the task is there
        for key in keys:
            visit.page.keyboard.press(key)
    visit.page.wait_for_selector("#nothing:not([hidden])")
    assert [(one.strength, one.safety) for one in stored(pages)] == [
        ("significantly_better", "both_safe"),
        ("significantly_better", "both_unsafe"),
        ("slightly_better", "chosen_safe"),
    ]
    visit.page.keyboard.press("u")
    visit.page.wait_for_selector("#bins [data-bin=chosen_safe][aria-pressed=true]")
    assert visit.page.locator("#scale [data-key='8']").get_attribute("aria-pressed") == "true"
    assert visit.faults() == []


def test_a_comment_outlives_a_lease_that_ran_out(pages: Pages, browser: Browser) -> None:
    anna, ben, number = pages.person("Anna"), pages.person("Ben"), campaign(pages.store, 1)
    visit = browser.visit(pages, f"/annotate/{number}", anna)
    visit.page.wait_for_selector("#scale button")
    visit.page.keyboard.press("m")
    visit.page.keyboard.type("both are odd")
    with pages.store.write() as session:
        for task in session.scalars(select(Task)):
            task.expires = 0.0
    judge(ben, task_of(ben, number))
    for key in ("Escape", "1", "b"):
        visit.page.keyboard.press(key)
    shown = visit.page.locator("#refused")
    shown.get_by_text("both are odd").wait_for()
    assert "ran out" in shown.inner_text()
    assert len(stored(pages)) == 1


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_the_page_fits_and_can_be_read_by_all(pages: Pages, browser: Browser, width: int) -> None:
    anna, number = pages.person("Anna"), campaign(pages.store)
    visit = browser.visit(pages, f"/annotate/{number}", anna, width=width)
    visit.page.wait_for_selector("#scale button")
    visit.page.keyboard.press("1")
    assert (visit.inaccessible(), visit.overflow(), visit.faults()) == ([], 0, [])
