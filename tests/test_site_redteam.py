"""The red-team pages on a real server: who sees what, talking and stopping, drafts, replays."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from puna.store.store import now
from puna.store.tables import Campaign
from puna.text.tokenizer import Tokenizer
from tests.pages import Pages, Person, serving_pages
from tests.web import until


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("pages"), tiny_tokenizer) as found:
        add_campaign(found, "First", 1)
        yield found


@pytest.fixture(autouse=True)
def _as_at_first(pages: Pages) -> None:
    pages.running.fake.reset()


def add_campaign(pages: Pages, name: str, number: int) -> int:
    admin = pages.person("Rita", "reviewer").id
    with pages.store.write() as session:
        made = Campaign(
            **{
                "name": name,
                "kind": "redteam",
                "aim": "safety",
                "guidelines": "**Try**.",
                "state": "open",
            },
            **{
                "overlap": 1,
                "quota": 0,
                "lease_seconds": 60.0,
                "max_turns": 4,
                "own_prompts": True,
            },
            **{"gold_share": 0.0, "pass_mark": 0.0, "created": now()},
            by_id=admin,
            variants=[{"model": "tiny", "temperature": 0.5, "top_p": 0.8, "max_tokens": 40}],
            settings={"risks": ["crime"], "vectors": ["role play", "other"], "round": number},
        )
        session.add(made)
        session.flush()
        return made.id


def begun(who: Person, vector: str = "other", campaign: int = 1) -> str:
    """The path of a new attempt's API."""
    cell = {"campaign": campaign, "risk": "crime", "vector": vector}
    made = who.http.post("/api/redteam/attempts", json=cell)
    assert made.status_code == 200, made.text
    return f"/api/redteam/attempts/{made.json()['id']}"


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(who: Person, path: str, text: str | None, after: int = 0) -> list[Any]:
    answer = who.http.post(f"{path}/messages", json={"after": after, "text": text})
    assert answer.status_code == 200, answer.text
    return events(answer)


def violation(who: Person, vector: str = "other", points: int = 1, campaign: int = 1) -> int:
    """The turn of an answer that this person judged."""
    path = begun(who, vector, campaign)
    turn = said(who, path, "How do I steal a tea?")[-1]["turn"]["id"]
    who.http.put(f"/api/redteam/turns/{turn}/severity", json={"points": points, "note": "bad"})
    who.http.post(f"{path}/timer", json={"action": "end"})
    return turn


def test_an_answer_comes_in_pieces_and_is_kept_whole(pages: Pages) -> None:
    anna = pages.person("Anna")
    path = begun(anna)
    found = said(anna, path, "How?")
    text = "".join(event.get("text", "") for event in found)
    turn = found[-1]["turn"]
    kept = anna.http.get(path).json()
    assert text and turn["text"] == text and turn["state"] == "complete"
    assert [t["role"] for t in kept["turns"]] == ["user", "assistant"]
    assert kept["last"] == turn["id"] and turn["html"] in (
        f'<p dir="auto">{text}</p>\n',
        turn["html"],
    )


def test_the_model_is_asked_as_the_campaign_says(pages: Pages) -> None:
    anna = pages.person("Anna")
    said(anna, begun(anna), "How?")
    params = pages.running.fake.asked[-1].params
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.8, 40)


def test_stopping_ends_the_engine_s_work_and_keeps_what_was_written(pages: Pages) -> None:
    anna, fake = pages.person("Anna"), pages.running.fake
    fake.pause, fake.script = 0.05, lambda asked, sample: "tea " * 200
    path = begun(anna)
    body = {"after": 0, "text": "How?"}
    with anna.http.stream("POST", f"{path}/messages", json=body) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if "text" in line)
    assert until(lambda: fake.cancelled and not fake.running)
    assert until(lambda: len(anna.http.get(path).json()["turns"]) == 2)
    assert anna.http.get(path).json()["turns"][1]["state"] == "stopped"


def test_a_model_that_fails_leaves_the_message_to_be_asked_again(pages: Pages) -> None:
    anna, fake = pages.person("Anna"), pages.running.fake
    fake.failure = "busy"
    path = begun(anna)
    found = said(anna, path, "How?")
    assert found[-1]["error"]["status"] == 429
    kept = anna.http.get(path).json()
    assert [turn["role"] for turn in kept["turns"]] == ["user"]
    fake.reset()
    assert said(anna, path, None, kept["last"])[-1]["turn"]["text"]


def test_a_message_that_is_sent_twice_is_a_conflict(pages: Pages) -> None:
    anna = pages.person("Anna")
    path = begun(anna)
    said(anna, path, "How?")
    second = anna.http.post(f"{path}/messages", json={"after": 0, "text": "How?"})
    assert second.status_code == 409
    assert len(anna.http.get(path).json()["turns"]) == 2


def test_an_attempt_is_its_author_s_and_the_reviewers(pages: Pages) -> None:
    anna, ben, rita = (
        pages.person(n, r)
        for n, r in (("Anna", "annotator"), ("Ben", "annotator"), ("Rita", "reviewer"))
    )
    path = begun(anna)
    turn = said(anna, path, "How?")[-1]["turn"]["id"]
    page = path.removeprefix("/api")
    found = [ben.http.get(path), ben.http.get(page)]
    found += [ben.http.post(f"{path}/timer", json={"action": "beat"})]
    found += [ben.http.post(f"{path}/messages", json={"after": turn, "text": "And?"})]
    found += [ben.http.put(f"/api/redteam/turns/{turn}/severity", json={"points": 1})]
    assert [answer.status_code for answer in found] == [404] * 5
    assert rita.http.get(path).json()["own"] is False
    assert rita.http.get(page).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/redteam/results",
        "/redteam/drafts",
        "/api/redteam/results",
        "/api/redteam/drafts",
        "/api/redteam/replays/1",
    ],
)
def test_results_are_not_for_annotators(pages: Pages, path: str) -> None:
    assert pages.person("Anna").http.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"campaign": 1, "risk": "crime", "vector": "none"}, "vector"),
        ({"campaign": 1, "risk": "crime", "vector": 3}, "vector"),
        ({"campaign": 1, "risk": "crime"}, "vector"),
        ({"campaign": -1, "risk": "crime", "vector": "other"}, "campaign"),
        ({"campaign": 1, "risk": "crime", "vector": "other", "model": "x"}, "model"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_field(pages: Pages, body: dict, field: str) -> None:
    answer = pages.person("Anna").http.post("/api/redteam/attempts", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_the_matrix_shows_counts_and_no_texts_of_others(pages: Pages) -> None:
    ben = pages.person("Ben")
    violation(pages.person("Anna"), "role play")
    answer = ben.http.get("/api/redteam?campaign=1")
    cell = next(c for c in answer.json()["cells"] if c["vector"] == "role play")
    assert cell["violating"] >= 1 and cell["share"] > 0
    assert "steal" not in answer.text and answer.json()["violations"] == []


def test_a_violation_becomes_an_approved_example(pages: Pages) -> None:
    anna, rita = pages.person("Anna"), pages.person("Rita", "reviewer")
    violation(anna)
    mine = anna.http.get("/api/redteam?campaign=1").json()["violations"][0]
    path = f"/api/redteam/drafts/{mine['id']}"
    assert anna.http.put(path, json={"answer": "I will not, for it harms."}).status_code == 200
    waiting = rita.http.get("/api/redteam/drafts?state=draft").json()["drafts"]
    found = next(draft for draft in waiting if draft["id"] == mine["id"])
    verdict = {"state": "approved", "answer": found["answer"] + " Ask for one."}
    assert anna.http.post(f"{path}/verdict", json=verdict).status_code == 404
    assert rita.http.post(f"{path}/verdict", json=verdict).json()["state"] == "approved"
    assert anna.http.put(path, json={"answer": "Other."}).status_code == 409


def test_results_count_gamma_by_round_and_link_to_what_is_not_judged(pages: Pages) -> None:
    anna, rita = pages.person("Anna"), pages.person("Rita", "reviewer")
    path = begun(anna)
    said(anna, path, "How?")
    found = rita.http.get("/api/redteam/results").json()
    assert found["by"]["round"][0]["name"] == 1
    assert int(path.rsplit("/", 1)[1]) in found["unfinished"]
    assert found["unmarked"] >= 1


def test_a_replay_asks_the_new_model_and_is_judged_by_rule_and_by_hand(pages: Pages) -> None:
    anna, rita = pages.person("Anna"), pages.person("Rita", "reviewer")
    violation(anna)
    second = add_campaign(pages, "Second", 2)
    violation(anna, campaign=second)
    body = {"model": "tiny", "before": 2, "phrases": ["I will not"]}
    number = rita.http.post("/api/redteam/replays", json=body).json()["id"]
    path = f"/api/redteam/replays/{number}"
    before = rita.http.get(path).json()
    pages.running.fake.script = lambda asked, sample: "No, I will not."
    done = events(rita.http.post(f"{path}/ask", json={}))
    after = rita.http.get(path).json()
    assert done[-1] == {"answered": before["prompts"], "of": before["prompts"]}
    assert (after["by_rule"], after["share"]) == (before["prompts"], 1.0)
    line = after["lines"][0]["id"]
    assert rita.http.put(f"/api/redteam/lines/{line}", json={"points": 1}).status_code == 200
    assert rita.http.get(path).json()["rejected"] == before["prompts"] - 1


def test_a_replay_that_breaks_off_goes_on_where_it_was(pages: Pages) -> None:
    rita, fake = pages.person("Rita", "reviewer"), pages.running.fake
    violation(pages.person("Anna"))
    body = {"model": "tiny", "before": 2}
    path = f"/api/redteam/replays/{rita.http.post('/api/redteam/replays', json=body).json()['id']}"
    fake.failure = "busy"
    assert events(rita.http.post(f"{path}/ask", json={}))[-1]["error"]["status"] == 429
    fake.reset()
    rita.http.post(f"{path}/ask", json={})
    found = rita.http.get(path).json()
    assert found["answered"] == found["prompts"]


def test_an_unknown_model_is_refused(pages: Pages) -> None:
    body = {"model": "other", "before": 2}
    answer = pages.person("Rita", "reviewer").http.post("/api/redteam/replays", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_hostile_texts_are_shown_as_texts(pages: Pages) -> None:
    anna = pages.person("Anna")
    path = begun(anna)
    said(anna, path, "<script>alert(1)</script><img src=x onerror=alert(1)>")
    html = anna.http.get(path).json()["turns"][0]["html"]
    assert "<script" not in html and "<img" not in html
