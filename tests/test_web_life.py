"""Requests in company: disconnects, slow readers, queues, dying workers, the end (S57 to S62)."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from puna.web.protocol import Bounds
from puna.web.service import Limits
from puna.web.supervisor import Supervisor
from tests.web import post, serving, until

USER = [{"role": "user", "content": "tea"}]
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": USER}


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory, tiny_tokenizer):
    limits = Limits(request_seconds=20, ping_seconds=0.1)
    bounds = Bounds(write_seconds=0.3)
    folder = tmp_path_factory.mktemp("web")
    with serving(folder, tiny_tokenizer, limits=limits, bounds=bounds) as running:
        yield running


@pytest.fixture
def server(shared_server):
    shared_server.fake.reset()
    yield shared_server
    assert shared_server.alive()
    assert until(lambda: shared_server.service.admission.used == 0)


def long_text(asked, sample) -> str:
    """More words than a test waits for."""
    return "tea and coffee " * 200


def request(**fields) -> bytes:
    return post(CHAT, json.dumps({**BODY, **fields}).encode())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_cancels_its_request(server, stream):
    server.fake.script, server.fake.pause = long_text, 0.01
    with server.connect() as sock:
        sock.sendall(request(stream=stream))
        assert until(lambda: server.fake.running)
        if stream:
            assert sock.recv(100)
    assert until(lambda: server.fake.cancelled == [server.fake.asked[0].id])
    assert until(lambda: not server.fake.running)


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, admission=(1, 8)) as server:
        server.fake.mute = True
        first, second = server.connect(), server.connect()
        first.sendall(request())
        assert until(lambda: server.service.admission.used == 1)
        second.sendall(request())
        assert until(lambda: server.service.admission.waiting == 1)
        second.close()
        assert until(lambda: server.service.admission.waiting == 0)
        first.close()
        assert until(lambda: server.service.admission.used == 0)
        assert len(server.fake.asked) == 1


def test_a_client_that_does_not_read_is_cut_off(server):
    # Long tokens and alternatives fill the buffers of both ends quickly.
    server.fake.script, server.fake.pause = lambda asked, sample: "tea " * 120, 0.01
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        body = request(stream=True, logprobs=True, top_logprobs=20, n=64)
        sock.sendall(body)
        assert until(lambda: server.fake.cancelled, 10)
        assert server.chat().status_code == 200


def test_a_stream_shows_life_while_the_worker_is_silent(server):
    server.fake.mute = True
    with server.connect() as sock:
        sock.sendall(request(stream=True))
        found = b""
        while found.count(b": ping") < 2:
            found += sock.recv(1000)
        assert b"200 OK" in found and b"text/event-stream" in found


def test_a_request_without_an_answer_ends_at_its_deadline(server, monkeypatch):
    monkeypatch.setattr("puna.web.answer.OVERDUE_SECONDS", 0.1)
    server.fake.mute = True
    reply = server.chat(max_seconds=0.1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "deadline")
    assert server.fake.cancelled


@pytest.mark.parametrize(("kind", "status"), [("internal", 500), ("busy", 429), ("stopping", 503)])
def test_a_failure_of_the_engine_has_a_status_and_the_id(server, kind, status):
    server.fake.failure = kind
    for stream in (False, True):
        reply = server.chat(stream=stream)
        assert reply.status_code == status
        if status == 500:
            assert reply.headers["x-request-id"] in reply.json()["error"]["message"]


def test_a_dying_worker_ends_its_requests_and_health_says_so(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer) as server:
        server.fake.script, server.fake.pause = long_text, 0.01
        with ThreadPoolExecutor(4) as pool:
            whole = [pool.submit(server.chat) for _ in range(2)]
            streams = [pool.submit(server.chat, stream=True) for _ in range(2)]
            assert until(lambda: len(server.fake.running) == 4)
            time.sleep(0.1)
            server.source.gone = True
            server.fake.break_off()
            for reply in whole:
                error = reply.result().json()["error"]
                assert reply.result().status_code == 503
                assert reply.result().headers["x-request-id"] in error["message"]
            for reply in streams:
                last = reply.result().text.strip().splitlines()[-1]
                assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        health = server.http().get("/health")
        assert (health.status_code, health.json()["error"]["code"]) == (503, "loading")
        assert server.chat().status_code == 503
        server.fake.reset()
        server.source.gone = False
        assert until(server.alive)
        assert server.chat().status_code == 200


def test_health_is_503_while_the_model_loads(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, ready=False) as server:
        assert server.http().get("/health").status_code == 503
        reply = server.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "loading")
        assert "retry-after" in reply.headers
        server.source.gone = False
        assert until(server.alive)


def test_a_server_whose_only_model_is_given_up_ends(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, ready=False) as server:
        server.source.failed = "tiny: no such model"
        server.thread.join(5)
        assert server.server.abandoned
        assert server.service.given_up == ["tiny: no such model"]


def test_a_thousand_requests_are_answered_or_told_to_come_later(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, admission=(4, 20)) as server:
        server.fake.pause = 0.002
        client = server.http()

        def one(number: int):
            return client.post(CHAT, json={**BODY, "seed": number})

        with ThreadPoolExecutor(100) as pool:
            replies = list(pool.map(one, range(1000)))
        codes = [reply.status_code for reply in replies]
        assert set(codes) == {200, 429}
        late = next(reply for reply in replies if reply.status_code == 429)
        assert (late.headers["retry-after"], late.json()["error"]["code"]) == ("1", "queue_full")
        assert len(server.fake.asked) == codes.count(200)
        assert server.service.admission.used == server.service.admission.waiting == 0


def test_a_fault_in_the_server_is_a_500_and_is_logged_once_without_the_prompt(
    server, monkeypatch, caplog
):
    def fault(*args):
        raise ZeroDivisionError("the prompt was: secret tea")

    caplog.set_level(logging.INFO, "puna.web")
    monkeypatch.setattr("puna.web.chat.to_dialog", fault)
    reply = server.chat(messages=[{"role": "user", "content": "secret tea"}])
    assert reply.status_code == 500
    identity = reply.headers["x-request-id"]
    assert identity in reply.json()["error"]["message"]
    assert until(lambda: f"{identity} POST" in caplog.text)  # the line that ends every request
    ours = [record for record in caplog.records if record.name.startswith("puna")]
    errors = [record for record in ours if record.levelno == logging.ERROR]
    assert len(errors) == 1 and identity in errors[0].getMessage()
    assert "ZeroDivisionError" in errors[0].getMessage()
    assert not any("secret" in record.getMessage() for record in caplog.records)


def test_no_prompt_stands_in_the_log_or_the_figures(server, caplog):
    caplog.set_level(logging.DEBUG)
    forged = {"role": "assistant", "content": "forged words"}
    messages = [{"role": "user", "content": "a secret"}, forged, *USER]
    assert server.chat(messages=messages, user="someone\n").status_code == 200
    server.chat(messages=[{"role": "user", "content": "[INST] a secret"}])
    figures = server.http().get("/metrics").text
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("puna"))
    assert "unverified=1" in ours and "someone\\n" in ours
    for word in ("secret", "forged words", "tea 0"):
        assert word not in ours and word not in figures


def test_the_figures_count_requests_and_tokens(server):
    server.chat()
    figures = server.http().get("/metrics").text
    assert 'puna_requests_total{route="/v1/chat/completions",status="200"}' in figures
    assert 'puna_worker{model="tiny",name="blocks_free"} 64.0' in figures
    assert 'puna_tokens_total{key="local",kind="prompt",model="tiny"}' in figures


@pytest.mark.parametrize("grace", [5.0, 0.3])
def test_at_the_end_streams_finish_within_the_grace_or_get_an_error(
    tmp_path, tiny_tokenizer, grace
):
    with serving(tmp_path, tiny_tokenizer, grace=grace, admission=(50, 8)) as server:
        server.fake.script = long_text
        server.fake.pause = 0.002 if grace > 1 else 0.5
        with ThreadPoolExecutor(54) as pool:
            running = [pool.submit(server.chat, stream=True) for _ in range(50)]
            assert until(lambda: len(server.fake.running) == 50)
            waiting = [pool.submit(server.chat) for _ in range(3)]
            assert until(lambda: server.service.admission.waiting == 3)
            server.server.stop()
            ends = [reply.result().text.strip().splitlines()[-1] for reply in running]
            assert {reply.result().status_code for reply in waiting} == {503}
        if grace > 1:
            assert set(ends) == {"data: [DONE]"}
        else:
            codes = {json.loads(end.removeprefix("data: "))["error"]["code"] for end in ends}
            assert codes == {"stopping"}
        server.thread.join(10)
        with pytest.raises(OSError):
            server.connect()


def test_no_packet_waits_for_the_next(server):
    with server.connect():
        assert until(lambda: server.server.server_state.connections)
        for connection in list(server.server.server_state.connections):
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_requests_on_one_connection_are_answered_in_turn(server):
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    answer = server.say((head + b"\r\n") * 5 + head + b"connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 6


def test_a_page_of_another_origin_may_ask_only_if_it_is_allowed(tmp_path, tiny_tokenizer, server):
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    refused = server.http().options(CHAT, headers=headers)
    assert "access-control-allow-origin" not in refused.headers
    with serving(tmp_path, tiny_tokenizer, origins=("https://a.example",)) as other:
        allowed = other.http().options(CHAT, headers=headers)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"


def test_many_threads_get_each_their_own_answer(server):
    server.fake.script = lambda asked, sample: f"seed {asked.params.seed}"
    found = {}

    def one(number: int) -> None:
        reply = server.chat(seed=number, stream=number % 2 == 0)
        text = reply.text if number % 2 == 0 else reply.json()["choices"][0]["message"]["content"]
        if number % 2 == 0:
            events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
            deltas = [c["delta"] for e in events for c in json.loads(e)["choices"]]
            text = "".join(delta.get("content") or "" for delta in deltas)
        found[number] = text

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {number: f"seed {number}" for number in range(20)}


def test_a_worker_that_hangs_is_killed_and_its_requests_are_told(tmp_path, tiny_tokenizer):
    log = []
    command = [sys.executable, "-m", "tests.fake_worker", "--pause", "0.01"]
    command += ["--tokenizer", str(tiny_tokenizer.path)]
    real = Supervisor("fake", command, back_off=0.01, log=log.append)
    with serving(tmp_path, tiny_tokenizer, real=real, hang=0.5, seconds=20) as server:
        first = real.process.pid
        with ThreadPoolExecutor(2) as pool:
            asked = {"max_tokens": 400}
            whole = pool.submit(server.chat, **asked)
            stream = pool.submit(server.chat, stream=True, **asked)
            assert until(lambda: server.service.models["tiny"].worker.running == 2)
            time.sleep(0.2)
            os.kill(first, signal.SIGSTOP)
            assert whole.result().status_code == 503
            last = stream.result().text.strip().splitlines()[-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        assert until(server.alive, 20) and real.process.pid != first
        assert server.chat(max_tokens=2).status_code == 200
    assert [line for line in log if "said nothing for 0.5 s" in line and "is killed" in line]


def test_a_worker_that_is_slow_but_answers_is_left_alone(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, hang=0.3) as server:
        server.fake.mute = True
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(server.chat, max_seconds=1.0)
            assert until(lambda: server.service.models["tiny"].worker.running)
            time.sleep(0.8)
            assert server.source.killed == []
            server.fake.hung = True
            assert reply.result().status_code == 503
        assert len(server.source.killed) == 1


def test_an_idle_worker_that_says_nothing_is_left_alone(tmp_path, tiny_tokenizer):
    with serving(tmp_path, tiny_tokenizer, hang=0.1) as server:
        server.fake.hung = True
        time.sleep(0.4)
        assert server.source.killed == []
