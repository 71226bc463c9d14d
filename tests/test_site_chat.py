"""The chat page: answers as they are written, stopped, gone on with, judged, carried along."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from puna.store.store import open_store
from puna.store.tables import Choice, Conversation, Thumb, Turn
from puna.web.site import chat_forms
from puna.web.site.door import COOKIE
from tests.hostile import HOSTILE, faults_in
from tests.pages import Pages, Person, serving_pages
from tests.web import CONTEXT, until

TINY = {"model": "tiny"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("chat"), tiny_tokenizer) as found:
        yield found


@pytest.fixture
def anna(pages: Pages) -> Person:
    pages.running.fake.reset()
    return pages.person("Anna")


def events(person: Person, path: str, body: Any) -> list[Any]:
    """The events of a stream, which ends as it should."""
    reply = person.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def ask(person: Person, text: str | None = "tea?", variants: Any = (TINY,), **fields: Any) -> Any:
    """Say something; the first event, with the answers as they are at the end."""
    body = {"variants": list(variants), **fields} | ({"text": text} if text else {})
    found = events(person, "/api/chat/ask", body)
    head = found[0]["begun"]
    ends = {event["turn"]: event["end"] for event in found if "end" in event}
    return head | {"answers": [ends[turn["id"]] for turn in head["answers"]]}


def seen(person: Person, number: int) -> Any:
    """A conversation as the page gets it."""
    reply = person.http.get(f"/api/chat/conversations/{number}")
    assert reply.status_code == 200, reply.text
    return reply.json()


class Listener:
    """Somebody who hears an answer in a thread of its own."""

    def __init__(self, person: Person, path: str, body: Any) -> None:
        self.events: list[Any] = []
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self._hear, args=(person, path, body))
        self.thread.start()
        assert until(lambda: len(self.events) > 3)

    def _hear(self, person: Person, path: str, body: Any) -> None:
        with person.http.stream("POST", path, json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    self.events.append(json.loads(line[6:]))
                if self.leave.is_set():
                    return

    @property
    def turn(self) -> int:
        return int(self.events[0]["begun"]["answers"][0]["id"])

    @property
    def number(self) -> int:
        return int(self.events[0]["begun"]["conversation"]["id"])

    @property
    def heard(self) -> str:
        return "".join(event.get("text", "") for event in self.events)


def slowly(pages: Pages, text: str = "tea and more " * 200) -> None:
    """From now on the model writes a long answer, a token every hundredth of a second."""
    pages.running.fake.pause, pages.running.fake.script = 0.01, lambda asked, sample: text


def test_an_answer_streams_and_is_kept_with_its_model_and_figures(pages, anna):
    pages.running.fake.script = lambda asked, sample: "**green** tea"
    found = events(anna, "/api/chat/ask", {"text": "tea?", "variants": [TINY]})
    assert "".join(event.get("text", "") for event in found) == "**green** tea"
    end = found[-1]["end"]
    assert (end["state"], end["text"]) == ("complete", "**green** tea")
    assert "<strong>green</strong>" in end["html"]
    assert end["model"] == "tiny" and end["version"].startswith("fp_")
    figures = end["figures"]
    assert figures["context"] == CONTEXT and figures["tokens_per_second"] >= 0
    again = seen(anna, found[0]["begun"]["conversation"]["id"])
    assert again["title"] == "tea?" and again["turns"][-1] == end


def test_the_model_reads_the_branch_and_the_system_prompt_and_nothing_else(pages, anna):
    brief = [{**TINY, "settings": {"max_tokens": 64}}]
    first = ask(anna, "tea?", brief, system="be kind")
    number, answer = first["conversation"]["id"], first["answers"][0]
    second = ask(anna, "and milk?", brief, conversation_id=number, parent_id=answer["id"])
    ask(anna, "coffee?", brief, conversation_id=number, parent_id=None)
    prompts = [pages.running.fake.tokenizer.decode(one.prompt) for one in pages.running.fake.asked]
    assert all("be kind" in prompt for prompt in prompts)
    assert "and milk?" in prompts[1] and answer["text"] in prompts[1]
    assert "coffee?" in prompts[2] and "tea?" not in prompts[2].replace("coffee?", "")
    shown = seen(anna, number)
    assert len(shown["turns"]) == 2 and len(shown["turns"][0]["siblings"]) == 2
    body = {"turn_id": second["answers"][0]["id"]}
    shown = anna.http.put(f"/api/chat/conversations/{number}/leaf", json=body).json()
    assert [turn["text"] for turn in shown["turns"]][::2] == ["tea?", "and milk?"]


def test_a_retry_is_another_answer_to_the_same_message(anna):
    first = ask(anna)
    number, user = first["conversation"]["id"], first["asked"]["id"]
    again = ask(anna, None, conversation_id=number, parent_id=user)
    assert again["asked"] is None
    assert again["answers"][0]["siblings"] == [first["answers"][0]["id"], again["answers"][0]["id"]]


def test_settings_reach_the_engine_and_bounds_are_those_that_the_server_checks(pages, anna):
    settings = {"temperature": 0.25, "top_p": 0.5, "max_tokens": 7, "top_k": 3, "seed": 5}
    ask(anna, variants=[{"model": "tiny:fr", "settings": settings}])
    asked = pages.running.fake.asked[0]
    params = asked.params
    assert (params.temperature, params.top_p, params.max_tokens) == (0.25, 0.5, 7)
    assert (params.top_k, params.seed, asked.adapter) == (3, 5, "fr")
    assert asked.tenant == f"account:{anna.id}"
    told = anna.http.get("/api/chat/options").json()
    assert [model["name"] for model in told["models"]] == ["tiny", "tiny:fr"]
    assert told["models"][0]["context"] == CONTEXT
    for name, bound in told["bounds"].items():
        if bound["max"] is not None and name != "seed":
            body = {"text": "tea?", "variants": [{**TINY, "settings": {name: bound["max"] * 2}}]}
            reply = anna.http.post("/api/chat/ask", json=body)
            assert reply.status_code == 400 and name in reply.json()["error"]["param"]


def test_stop_ends_the_engine_s_work_at_once_and_keeps_what_was_written(pages, anna):
    slowly(pages)
    heard = Listener(anna, "/api/chat/ask", {"text": "tea?", "variants": [TINY]})
    fake = pages.running.fake
    stopped = anna.http.post(f"/api/chat/turns/{heard.turn}/stop", json={}).json()
    assert until(lambda: fake.cancelled == [fake.asked[0].id]) and not fake.running
    heard.thread.join(5)
    assert stopped["state"] == "stopped"
    assert stopped["text"] == heard.heard and len(stopped["text"]) > 3
    assert heard.events[-1]["end"] == stopped
    assert pages.running.service.admission.used == 0


def test_closing_the_stream_stops_too(pages, anna):
    slowly(pages)
    heard = Listener(anna, "/api/chat/ask", {"text": "tea?", "variants": [TINY]})
    heard.leave.set()
    heard.thread.join(5)
    fake = pages.running.fake
    assert until(lambda: fake.cancelled == [fake.asked[0].id])
    assert until(lambda: seen(anna, heard.number)["turns"][-1]["state"] == "stopped")
    assert seen(anna, heard.number)["turns"][-1]["text"].startswith(heard.heard[:20])


def test_what_is_written_is_in_the_store_while_it_is_written(pages, anna):
    slowly(pages)
    heard = Listener(anna, "/api/chat/ask", {"text": "tea?", "variants": [TINY]})

    def stored() -> str:
        with pages.store.read() as session:
            turn = session.get(Turn, heard.turn)
            assert turn is not None and turn.state == "writing"
            return turn.content

    assert until(lambda: len(stored()) > 20)
    anna.http.post(f"/api/chat/turns/{heard.turn}/stop", json={})
    heard.thread.join(5)


def test_an_answer_that_was_cut_goes_on_where_it_ended(pages, anna):
    fake = pages.running.fake
    fake.script = lambda asked, sample: "We have tea and water"
    first = ask(anna, variants=[{**TINY, "settings": {"max_tokens": 4}}])
    cut = first["answers"][0]
    assert cut["state"] == "length"
    fake.script = lambda asked, sample: " and that is all"
    *_, last = events(anna, f"/api/chat/turns/{cut['id']}/continue", {})
    assert last["end"]["id"] == cut["id"] and last["end"]["state"] == "complete"
    assert last["end"]["text"] == cut["text"].rstrip() + " and that is all"
    reply = anna.http.post(f"/api/chat/turns/{cut['id']}/continue", json={})
    assert reply.status_code == 409


def test_what_was_left_out_is_told_by_message_and_reason(pages, anna):
    pages.running.fake.script = lambda asked, sample: "yes"
    first = ask(anna, "green tea " * 20)
    number, leaf = first["conversation"]["id"], first["answers"][0]["id"]
    for _ in range(4):
        said = ask(anna, "green tea " * 20, conversation_id=number, parent_id=leaf)
        leaf = said["answers"][0]["id"]
    figures = said["answers"][0]["figures"]
    ids = [turn["id"] for turn in seen(anna, number)["turns"]]
    count = len(figures["dropped"])
    assert count > 0 and figures["dropped"] == ids[:count]
    assert "were left out" in figures["why"]


def test_two_variants_stream_side_by_side_and_a_choice_is_kept_with_its_strength(pages, anna):
    fake = pages.running.fake
    fake.script = lambda asked, sample: f"tea at {asked.params.temperature}"
    settings = {"temperature": 1.5}
    both = ask(anna, variants=[TINY, {"model": "tiny:fr", "settings": settings}])
    number, (one, two) = both["conversation"]["id"], both["answers"]
    assert (one["text"], two["text"]) == ("tea at 0.7", "tea at 1.5")
    assert seen(anna, number)["beside"]["id"] == two["id"]
    body = {"chosen_id": two["id"], "rejected_id": one["id"], "strength": "slightly_better"}
    shown = anna.http.post("/api/chat/choice", json=body).json()
    assert shown["beside"] is None and shown["turns"][-1]["id"] == two["id"]
    with pages.store.read() as session:
        row = session.scalars(select(Choice).where(Choice.chosen_id == two["id"])).one()
        assert (row.rejected_id, row.strength, row.account_id) == (
            one["id"],
            "slightly_better",
            anna.id,
        )
    bad = anna.http.post("/api/chat/choice", json=body | {"strength": "much"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "strength")


def test_thumbs_keep_reasons_comment_and_rewrite_and_can_be_taken_back(pages, anna):
    turn = ask(anna)["answers"][0]["id"]
    path = f"/api/chat/turns/{turn}/thumb"
    body = {"up": False, "reasons": ["wrong"], "comment": "no", "rewrite": "green tea"}
    assert anna.http.put(path, json=body).json() == body
    with pages.store.read() as session:
        assert session.scalars(select(Thumb).where(Thumb.turn_id == turn)).one().rewrite
    assert anna.http.request("DELETE", path, json={}).status_code == 200
    with pages.store.read() as session:
        assert not session.scalars(select(Thumb).where(Thumb.turn_id == turn)).all()


def test_a_conversation_is_searched_renamed_deleted_and_brought_back(anna):
    number = ask(anna, "where grows rooibos?")["conversation"]["id"]
    path = f"/api/chat/conversations/{number}"

    def found(words: str) -> list[int]:
        reply = anna.http.post("/api/chat/history", json={"words": words}).json()
        return [one["id"] for one in reply["conversations"]]

    assert found("ROOIBOS") == [number]
    assert anna.http.put(path, json={"title": "Cedarberg"}).json()["title"] == "Cedarberg"
    assert found("cedarberg") == [number]
    assert anna.http.request("DELETE", path, json={}).status_code == 200
    assert found("rooibos") == [] and anna.http.get(path).status_code == 404
    assert anna.http.post(f"{path}/restore", json={}).json()["title"] == "Cedarberg"
    assert found("rooibos") == [number]


def test_nobody_else_s_conversation_is_there_by_any_route(pages, anna):
    mine = ask(anna)
    number, turn = mine["conversation"]["id"], mine["answers"][0]["id"]
    bela = pages.person("Bela")
    path, answer = f"/api/chat/conversations/{number}", f"/api/chat/turns/{turn}"
    thumb = {"up": True, "reasons": []}
    choice = {"chosen_id": turn, "rejected_id": turn, "strength": "better"}
    said = {"conversation_id": number, "parent_id": turn, "text": "x", "variants": [TINY]}
    for method, where, body in (
        ("GET", f"/chat/{number}", None),
        ("GET", path, None),
        ("PUT", path, {"title": "x"}),
        ("PUT", f"{path}/leaf", {"turn_id": turn}),
        ("DELETE", path, {}),
        ("POST", f"{path}/restore", {}),
        ("GET", f"{path}/export", None),
        ("GET", f"{path}/markdown", None),
        ("POST", f"{answer}/continue", {}),
        ("POST", f"{answer}/stop", {}),
        ("PUT", f"{answer}/thumb", thumb),
        ("DELETE", f"{answer}/thumb", {}),
        ("POST", "/api/chat/choice", choice),
        ("POST", "/api/chat/ask", said),
    ):
        reply = bela.http.request(method, where, json=body)
        assert reply.status_code == 404, (method, where, reply.text)
    assert bela.http.get("/api/chat/conversations/" + "9" * 40).status_code == 404
    assert seen(anna, number)["turns"][-1]["id"] == turn


def test_an_export_comes_back_as_it_was_and_markdown_can_be_read(anna):
    first = ask(anna, "tea?", system="be kind")
    number = first["conversation"]["id"]
    ask(anna, "coffee?", conversation_id=number)
    file = anna.http.get(f"/api/chat/conversations/{number}/export")
    assert 'attachment; filename="puna-chat-' in file.headers["content-disposition"]
    (copy,) = anna.http.post("/api/chat/import", json=file.json()).json()["conversations"]
    again = anna.http.get(f"/api/chat/conversations/{copy}/export").json()
    assert again == file.json()
    text = anna.http.get(f"/api/chat/conversations/{copy}/markdown").text
    assert "# tea?" in text and "## You\n\n> coffee?" in text and "(a machine)" in text


def turn_record(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": number, "role": "user", "content": "tea?", **fields}


@pytest.mark.parametrize(
    ("turns", "field"),
    [
        ([turn_record(role="assistant")], "conversations[0].turns[0].role"),
        ([turn_record(parent=2)], "conversations[0].turns[0].parent"),
        ([turn_record(), turn_record(1, parent=1)], "conversations[0].turns[1].id"),
        ([turn_record(content="  ")], "conversations[0].turns[0].content"),
        ([turn_record(content=1)], "conversations[0].turns[0].content"),
        ([turn_record(admin=True)], "conversations[0].turns[0].admin"),
        ([turn_record(role="system")], "conversations[0].turns[0].role"),
        ([turn_record(state="writing")], "conversations[0].turns[0].state"),
        ([turn_record(settings={"temperature": 9.0})], "conversations[0].turns[0].settings"),
        ([turn_record(id="1")], "conversations[0].turns[0].id"),
        ([], "conversations[0].turns"),
    ],
)
def test_a_file_that_is_not_right_is_refused_in_one_line_that_names_the_field(
    pages, anna, turns, field
):
    with pages.store.read() as session:
        before = len(session.scalars(select(Conversation)).all())
    good = {"turns": [turn_record()]}
    file = {"format": "puna.chat", "version": 1, "conversations": [{"turns": turns}, good]}
    reply = anna.http.post("/api/chat/import", json=file)
    error = reply.json()["error"]
    assert reply.status_code == 400 and "\n" not in error["message"]
    assert error["param"].startswith(field) and error["message"].startswith(field)
    with pages.store.read() as session:
        assert len(session.scalars(select(Conversation)).all()) == before


def hostile_file() -> dict[str, Any]:
    """A file with every hostile string in every text of it."""
    conversations = []
    for text in HOSTILE:
        turns = [
            turn_record(content=f"{text} ?"),
            turn_record(2, parent=1, role="assistant", content=text, model=text[:200]),
        ]
        turns[1]["version"] = text[:200]
        record = {"title": text[:200], "system": text, "model": text[:200], "turns": turns}
        conversations.append(record)
    return {"format": "puna.chat", "version": 1, "conversations": conversations}


def test_hostile_strings_come_in_by_import_and_come_out_as_text(anna):
    reply = anna.http.post("/api/chat/import", json=hostile_file())
    assert reply.status_code == 200, reply.text
    numbers = reply.json()["conversations"]
    assert len(numbers) == len(HOSTILE) >= 60
    for number, text in zip(numbers, HOSTILE, strict=True):
        found = seen(anna, number)
        assert found["system"] == text and found["turns"][1]["text"] == text
        assert faults_in(found["turns"][1]["html"]) == []
        page = anna.http.get(f"/chat/{number}").text
        assert "hacked" not in page and "evil.invalid" not in page


def test_hostile_titles_and_prompts_are_kept_or_refused_in_one_line(anna):
    number = ask(anna)["conversation"]["id"]
    for text in HOSTILE:
        reply = anna.http.put(
            f"/api/chat/conversations/{number}", json={"title": text[:200], "system": text}
        )
        assert reply.status_code == 200
        assert reply.json()["title"] == " ".join(text[:200].split())


def test_while_the_model_loads_nothing_is_kept_and_the_page_is_told_to_come_again(
    tmp_path, tiny_tokenizer
):
    with serving_pages(tmp_path, tiny_tokenizer, ready=False) as pages:
        anna = pages.person("Anna")
        told = anna.http.get("/api/chat/options").json()["models"]
        assert [(model["name"], model["ready"]) for model in told] == [("tiny", False)]
        body = {"text": "tea?", "variants": [TINY]}
        reply = anna.http.post("/api/chat/ask", json=body)
        assert reply.status_code == 503 and reply.headers["retry-after"] == "2"
        assert anna.http.post("/api/chat/history", json={}).json()["conversations"] == []


def test_a_worker_that_dies_leaves_the_text_and_says_why(pages, anna):
    slowly(pages)
    heard = Listener(anna, "/api/chat/ask", {"text": "tea?", "variants": [TINY]})
    pages.running.fake.break_off()
    heard.thread.join(5)
    end = heard.events[-1]["end"]
    assert end["state"] == "stopped" and end["text"] == heard.heard
    assert "worker" in end["figures"]["failure"]
    assert until(lambda: pages.running.service.models["tiny"].worker.ready)


def test_a_person_has_so_many_answers_at_a_time(pages, anna, monkeypatch):
    monkeypatch.setattr("puna.web.site.chat.AT_ONCE", 1)
    reply = anna.http.post("/api/chat/ask", json={"text": "tea?", "variants": [TINY, TINY]})
    assert reply.status_code == 429


def test_a_message_after_an_answer_without_words_is_read_with_the_one_before(pages, anna):
    fake = pages.running.fake
    fake.script = lambda asked, sample: ""
    first = ask(anna, "tea?")
    assert first["answers"][0]["text"] == ""
    number, leaf = first["conversation"]["id"], first["answers"][0]["id"]
    fake.script = lambda asked, sample: "yes"
    ask(anna, "hello?", conversation_id=number, parent_id=leaf)
    assert "tea?\n\nhello?" in fake.tokenizer.decode(fake.asked[-1].prompt)


def test_a_server_that_is_killed_loses_less_than_a_second_of_an_answer(tmp_path, tiny_tokenizer):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer.path.read_bytes())
    command = [sys.executable, "-m", "tests.chat_server", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        where = json.loads(server.stdout.readline())
        client = httpx2.Client(
            base_url=where["url"],
            headers={"x-csrf": where["csrf"], "origin": where["url"]},
            cookies={COOKIE: where["cookie"]},
            timeout=20,
            verify=False,
        )
        person = Person(1, "Anna", client, where["cookie"], where["csrf"])
        settings = {"max_tokens": 480}
        body = {"text": "tea?", "variants": [{**TINY, "settings": settings}]}
        texts: list[str] = []
        with client.stream("POST", "/api/chat/ask", json=body) as reply:
            for line in reply.iter_lines():
                if '"text":' in line:
                    texts.append(str(json.loads(line[6:]).get("text", "")))
                if len(texts) > 100:
                    os.kill(server.pid, signal.SIGKILL)
                    break
        assert person.name and server.wait(10) == -signal.SIGKILL
        client.close()
    store = open_store(tmp_path / "puna.db")
    with store.read() as session:
        user, turn = session.scalars(select(Turn).order_by(Turn.id)).all()
    store.close()
    heard = "".join(texts)
    assert user.content == "tea?" and turn.state == "writing"
    # A token comes every 20 ms at most: a second is at most 50 of them.
    assert heard.startswith(turn.content) and len(texts) - len(turn.content.split()) * 1.2 < 101
    assert len(turn.content) >= len("".join(texts[:-55]))


def test_limits_of_what_is_sent_are_told_with_their_field(anna):
    for body, field in (
        ({"text": "", "variants": [TINY]}, "text"),
        ({"text": " \n", "variants": [TINY]}, "text"),
        ({"text": "x", "variants": []}, "variants"),
        ({"text": "x", "variants": [TINY] * 3}, "variants"),
        ({"variants": [TINY]}, "text"),
        ({"text": "x", "variants": [{"model": "gone"}]}, "model"),
        ({"text": "x", "parent_id": 1, "variants": [TINY]}, "conversation_id"),
        ({"text": "x", "variants": [TINY], "more": 1}, "more"),
        ({"text": "x" * (chat_forms.BODY // 5), "variants": [TINY]}, "text"),
    ):
        reply = anna.http.post("/api/chat/ask", json=body)
        assert reply.json()["error"]["param"] == field, reply.text
        assert reply.status_code in (400, 404)
