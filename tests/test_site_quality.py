"""The quality pages: what counts, who may look, when figures are computed anew, what leaves."""

import csv
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from puna.evaluation.agreement import gwet, tabulate
from puna.store import quality
from puna.store.faults import Missing
from puna.store.store import now, open_store
from puna.store.tables import Batch, Item
from puna.text.tokenizer import Tokenizer
from puna.web.site import figuring
from puna.web.site.sheet import cell
from tests.browser import PHONE, WIDE, Browser
from tests.pages import Pages, serving_pages
from tests.people import Work, a_person, an_attack

VOTES = [(0, 0, 1), (0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 0, 0), (1, 1, 0), (1, 1, 1), (0, 1, 0)]


def judged_by(session: Session, who: list[int], votes: list[tuple[int, ...]] = VOTES) -> Work:
    """A campaign in which the people chose as `votes` say."""
    work = Work(session, who[0])
    for number, row in enumerate(votes):
        item = work.item(f"question {number}?")
        for person, chosen in zip(who, row, strict=True):
            work.judge(item, person, chosen)
    return work


def evaluated(session: Session, who: list[int], points: list[tuple[int, ...]]) -> Work:
    """An evaluation in which the people gave these points."""
    work = Work(session, who[0], "evaluation", name="versions")
    for number, row in enumerate(points):
        item = work.item(f"prompt {number}?")
        for person, value in zip(who, row, strict=True):
            work.judge(item, person, None, strength=None, rating=value)
    return work


def people(pages: Pages) -> list[int]:
    return [pages.person(name).id for name in ("Ana", "Bruno", "Chaska")]


def test_what_counts_is_neither_undone_nor_rejected_nor_of_a_test(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    with store.write() as session:
        who = [a_person(session, name) for name in ("Ana", "Bruno")]
        work = Work(session, who[0])
        item, gold = work.item(), work.item(purpose="gold")
        kept = [work.judge(item, who[0]).id]
        work.judge(item, who[1], undone=now())
        work.judge(work.item(), who[0], review="rejected")
        work.judge(work.item(purpose="qualification"), who[0])
        kept.append(work.judge(work.item(), who[1], review="edited").id)
        kept.append(work.judge(gold, who[0]).id)
        found = quality.judged(session, [work.campaign.id])
        assert [row.id for row in found] == kept
        assert [row.gold for row in found] == [False, False, True]
        assert quality.work(session, ["preference"])[0].judgements == 3
    store.close()


def test_a_campaign_that_is_not_there_is_missing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    with store.read() as session, pytest.raises(Missing):
        quality.campaign(session, [], 7)
    store.close()


def test_the_user_s_turns_up_to_an_answer_are_counted(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    with store.write() as session:
        who = a_person(session, "Ana")
        work = Work(session, who, "redteam", "safety", "red")
        an_attack(session, work, who, who, "how to harm?", "like this", "I will not")
        [found] = quality.marked(session)
    assert (found.turns, found.points, found.model, found.risk) == (1, 1, "v2", "crime")
    store.close()


def test_a_reviewer_sees_the_figures_of_the_ratings(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            judged_by(session, who)
        found = pages.person("Rita", "reviewer").http.get("/api/quality").json()
    mine = gwet(tabulate([list(row) for row in VOTES], [0, 1]))
    ac = found["agreement"]["choice"]["AC"]
    assert (ac["value"], ac["se"]) == pytest.approx((mine.value, mine.se))
    assert ac["low"] < ac["value"] < ac["high"]
    assert (found["judgements"], found["items"], found["unit"]) == (24, 8, "tokens")
    assert [row["name"] for row in found["annotators"]] == ["Ana", "Bruno", "Chaska"]
    assert {row["prompt"] for row in found["disagreements"]} == {
        f"question {n}?" for n in (0, 3, 5, 7)
    }
    count = len(tiny_tokenizer.encode("Green tea.")) + len(tiny_tokenizer.encode("No idea."))
    assert found["whole"]["sizes"]["response"] == count / 2


def test_batches_follow_each_other_with_the_paper_s_beside(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            work = judged_by(session, who, VOTES[:4])
            work.batch = Batch(campaign_id=work.campaign.id, number=2, created=now())
            session.add(work.batch)
            session.flush()
            work.judge(work.item("later?"), who[0], 0, strength="slightly_better")
        found = pages.person("Rita", "reviewer").http.get("/api/quality").json()
    assert [(row["batch"], row["judgements"]) for row in found["batches"]] == [(1, 12), (2, 1)]
    assert found["batches"][1]["strengths"]["slightly_better"]["value"] == 1.0
    assert "cannot be computed" in found["batches"][1]["agreement"]["choice"]["AC"]["why"]
    assert len(found["paper"]["batches"]) == 14


def test_nothing_judged_is_no_fault(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        rita = pages.person("Rita", "reviewer").http
        found = rita.get("/api/quality").json()
        assert (found["judgements"], found["campaign"], found["batches"]) == (0, None, [])
        assert rita.get("/api/evaluation").json()["pairs"] == []
        for path in ("quality.csv?table=annotators", "evaluation.csv?table=versions"):
            assert len(rita.get(f"/api/{path}").text.splitlines()) == 1
        assert rita.get("/api/me/figures").json()["figures"] is None


@pytest.mark.parametrize(
    "path", ["/quality", "/evaluation", "/api/quality", "/api/evaluation", "/api/quality.csv"]
)
def test_an_annotator_finds_no_quality_page(
    tmp_path: Path, tiny_tokenizer: Tokenizer, path: str
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        assert pages.person("Ana").http.get(path).status_code == 404
        assert pages.person("Rita", "reviewer").http.get(path).status_code == 200


def test_an_annotator_sees_the_own_figures_and_nobody_else_s(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            judged_by(session, who)
        answer = pages.person("Bruno").http.get("/api/me/figures")
        other = pages.person("Chaska").http.get("/api/me/figures").json()["figures"]
        every = pages.person("Rita", "reviewer").http.get("/api/quality").json()["annotators"]
    own = answer.json()["figures"]
    assert own["annotator"] == pages.person("Bruno").id
    assert own["agreement"]["value"] == every[1]["agreement"]["value"]
    assert other["annotator"] == pages.person("Chaska").id
    assert "without" not in own
    assert not any(name in answer.text for name in ("Ana", "Chaska"))


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("campaign=x", 400, "campaign"),
        ("campaign=-1", 400, "campaign"),
        ("campaign=99999999999999999999", 400, "campaign"),
        ("campaign=99", 404, None),
        ("weights=ratio", 400, "weights"),
        ("weights=%3Cscript%3E", 400, "weights"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_field(
    tmp_path: Path, tiny_tokenizer: Tokenizer, query: str, status: int, param: str | None
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        answer = pages.person("Rita", "reviewer").http.get(f"/api/quality?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_figures_are_computed_anew_when_something_was_judged_undone_or_rejected(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    measured = figuring.campaign_figures

    def campaign_figures(*args: Any) -> dict[str, Any]:
        computed.append(args[3:])
        return measured(*args)

    monkeypatch.setattr(figuring, "campaign_figures", campaign_figures)
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            work = judged_by(session, who)
            extra = work.judge(work.item(), who[0])
        rita = pages.person("Rita", "reviewer").http
        counts = [rita.get("/api/quality").json()["judgements"] for _ in range(3)]
        assert (counts, len(computed)) == ([25, 25, 25], 1)
        with pages.store.write() as session:
            session.get(type(extra), extra.id).undone = now()
        assert rita.get("/api/quality").json()["judgements"] == 24
        with pages.store.write() as session:
            session.get(type(extra), extra.id - 1).review = "rejected"
        assert rita.get("/api/quality").json()["judgements"] == 23
        assert rita.get("/api/quality?weights=linear").json()["weights"] == "linear"
        assert len(computed) == 4


def test_other_pages_answer_while_figures_are_computed(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def campaign_figures(*_: Any) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(10)
        return {}

    monkeypatch.setattr(figuring, "campaign_figures", campaign_figures)
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        rita = pages.person("Rita", "reviewer").http
        asking = threading.Thread(target=lambda: rita.get("/api/quality"))
        asking.start()
        try:
            assert begun.wait(10)
            assert pages.person("Ana").http.get("/api/me").status_code == 200
        finally:
            go_on.set()
            asking.join()


def test_without_a_model_sizes_are_words_and_it_is_said(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            judged_by(session, who)
        for model in pages.site.service.models.values():
            monkeypatch.setattr(model.worker, "ready", None)
        found = pages.person("Rita", "reviewer").http.get("/api/quality").json()
    assert (found["unit"], found["whole"]["sizes"]["response"]) == ("words", 2.0)


def test_versions_are_compared_put_on_a_scale_and_judged_for_safety(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            evaluated(session, who, [(3, 2, -1), (1, 1, 1), (-2, -2, 0), (0, 0, 1), (2, 2, 3)])
            red = Work(session, who[0], "redteam", "safety", "red")
            an_attack(session, red, who[0], who[1], "how to harm?", "like this", "I will not")
        found = pages.person("Rita", "reviewer").http.get("/api/evaluation").json()
        mean = pages.person("Rita").http.get("/api/evaluation?how=mean").json()
    [pair] = found["pairs"]
    assert (pair["first"], pair["second"], pair["prompts"]) == ("v2", "v1", 5)
    assert [pair[name]["value"] for name in ("win", "tie", "loss")] == [0.6, 0.2, 0.2]
    assert mean["pairs"][0]["win"]["value"] == 0.8
    assert [row["name"] for row in found["scale"]["versions"]] == ["v2", "v1"]
    assert [(row["model"], row["violation"]["value"]) for row in found["safety"]] == [("v2", 1.0)]


def test_a_cell_that_looks_like_a_formula_is_text_and_a_number_stays_one() -> None:
    assert [cell(text) for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=x")] == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@SUM(A1)",
        "'\tx",
        "'\r=x",
    ]
    assert [cell(value) for value in (-0.5, 3, None, "a=b")] == [-0.5, 3, "", "a=b"]


def test_exports_hold_the_figures_and_run_nothing(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        with pages.store.write() as session:
            who = [a_person(session, name) for name in ("=cmd|' /C calc'!A0", "Bruno")]
            work = Work(session, who[0])
            item = work.item("@SUM(A1:A9)")
            for person, chosen in zip(who, (0, 1), strict=True):
                work.judge(item, person, chosen)
            work.judge(work.item("fine"), who[0])
        rita = pages.person("Rita", "reviewer").http
        sheets = {
            name: list(csv.DictReader(io.StringIO(rita.get(f"/api/quality.csv?table={name}").text)))
            for name in ("agreement", "annotators", "batches", "disagreements")
        }
        head = rita.get("/api/quality.csv?table=batches").headers
        refused = rita.get("/api/quality.csv?table=people")
    assert head["content-type"].startswith("text/csv")
    assert head["content-disposition"] == 'attachment; filename="batches.csv"'
    assert sheets["annotators"][0]["name"] == "'=cmd|' /C calc'!A0"
    assert sheets["disagreements"][0]["prompt"] == "'@SUM(A1:A9)"
    assert float(sheets["agreement"][0]["value"]) < 0
    assert sheets["batches"][0]["comparisons"] == "3"
    assert refused.status_code == 400


def test_the_scale_of_a_large_campaign_is_read_in_bounded_questions(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    with store.write() as session:
        work = Work(session, a_person(session, "Ana"))
        items = [work.item(f"{n}").id for n in range(quality.CHUNK + 1)]
        assert len(quality.shown(session, items)) == quality.CHUNK + 1
        assert session.get(Item, items[0]) is not None
    store.close()


def test_equal_states_give_equal_intervals(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            judged_by(session, who)
        rita = pages.person("Rita", "reviewer").http
        first = rita.get("/api/quality").json()
        figuring._kept.clear()
        assert rita.get("/api/quality").json() == first


@pytest.mark.slow
def test_the_pages_are_accessible_fit_every_screen_and_run_no_name(
    browser: Browser, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    rng = np.random.default_rng(0)
    votes = [tuple(int(v) for v in rng.integers(0, 2, 3)) for _ in range(30)]
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        who = people(pages)
        with pages.store.write() as session:
            who[2] = a_person(session, hostile)
            work = judged_by(session, who, votes)
            work.judge(work.item(hostile), who[0], 0, safety="both_safe")
            points = [tuple(int(v) for v in rng.integers(-3, 4, 3)) for _ in range(20)]
            evaluated(session, who, points)
        rita, ana = pages.person("Rita", "reviewer"), pages.person("Ana")
        looks = [("/quality", rita, "#annotators table"), ("/evaluation", rita, "#pairs table")]
        looks += [("/me/figures", ana, "#own article")]
        for path, person, wanted in looks:
            for width, dark in ((WIDE, False), (PHONE, True)):
                visit = browser.visit(pages, path, person, width=width, dark=dark)
                visit.page.wait_for_selector(wanted, state="attached")
                assert visit.inaccessible() == []
                assert visit.overflow() <= 0
                assert visit.faults() == []
                assert visit.weight() < 200_000
                visit.close()
        visit = browser.visit(pages, "/quality", rita)
        visit.page.select_option("#campaign", label="teas")
        visit.page.wait_for_function("document.body.innerText.includes('onerror=alert')")
        assert visit.page.locator("img[src=x]").count() == 0
        visit.page.select_option("#weights", "quadratic")
        visit.settle()
        assert visit.faults() == []
