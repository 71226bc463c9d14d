"""The real worker with a tiny model behind the real server: faults, and equal seeds (S60, S67, S68)."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from puna.kernels import native
from puna.model import checkpoint
from puna.web.keys import Keys
from puna.web.supervisor import Supervisor
from tests.models import ARGS, random_model
from tests.planted_worker import DRAW_SEED, PASS_PROMPT
from tests.test_web_keys import ALICE, BOB, key
from tests.web import serving, until

PROMPT = [1, *range(40, 90)]
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_tokenizer):
    place = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoint.save(place, random_model(replace(ARGS, max_seq_len=512)), tiny_tokenizer)
    command = [sys.executable, "-m", "tests.planted_worker", "--model", str(place)]
    real = Supervisor("tiny", [*command, "--threads", "1", "--quant", kind()], log=lambda line: 0)
    keys = Keys([key("alice", ALICE), key("bob", BOB)])
    folder = tmp_path_factory.mktemp("web")
    with serving(
        folder, tiny_tokenizer, keys=keys, token=ALICE, real=real, seconds=60
    ) as running:
        yield running


def kind() -> str:
    """The kind of weights: the module itself where there are no kernels."""
    return "float32" if native.available() else "none"


def ask(server, seed: int = 5, token: str | None = None, **fields):
    """The reply to a request whose every number matters."""
    body = {"model": "tiny", "prompt": PROMPT, "seed": seed, "max_tokens": 60, "logprobs": 3}
    body |= {"temperature": 1.0, "ignore_eos": True, **fields}
    return server.http(token).post(PATH, json=body)


def said(reply) -> tuple:
    """All that is told of the tokens; the same bits on the native kernels."""
    assert reply.status_code == 200, reply.text
    choices = reply.json()["choices"]
    if native.available():
        return tuple((c["text"], str(c["logprobs"]), c["finish_reason"]) for c in choices)
    return tuple((c["text"], c["finish_reason"]) for c in choices)


def cached(reply) -> int:
    return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


@contextmanager
def company(server, count: int = 8, **fields):
    """Other requests that run meanwhile; gives their replies, which are there afterwards."""
    found = []
    with ThreadPoolExecutor(count) as pool:
        others = [
            pool.submit(ask, server, 100 + i, prompt=[1, 50 + i, *range(20)], max_tokens=150, **fields)
            for i in range(count)
        ]
        assert until(lambda: server.service.models["tiny"].worker.running >= count, 20)
        yield found
        found += [other.result() for other in others]


def test_a_seed_gives_the_same_tokens_alone_and_among_others(server):
    alone = said(ask(server))
    with company(server) as others:
        assert said(ask(server)) == alone
    assert {reply.status_code for reply in others} == {200}
    assert said(ask(server, 6)) != alone


def test_a_seed_gives_the_same_tokens_after_cancellations_and_a_prefix_hit(server):
    prompt = [1, *range(90, 140)]
    first = ask(server, prompt=prompt)
    with company(server):
        for seed in range(3):
            body = {"model": "tiny", "prompt": prompt, "seed": seed, "stream": True}
            body |= {"ignore_eos": True, "max_tokens": 300}
            with server.http().stream("POST", PATH, json=body) as stream:
                next(stream.iter_lines())
    assert until(lambda: server.service.models["tiny"].worker.running == 0)
    again = ask(server, prompt=prompt)
    assert said(again) == said(first)
    assert (cached(first), cached(again)) == (0, 48)


def test_keys_share_no_cached_prompt(server):
    prompt = [1, *range(140, 190)]
    found = [ask(server, token=token, prompt=prompt) for token in (ALICE, ALICE, BOB, BOB, ALICE)]
    assert [cached(reply) for reply in found] == [0, 48, 0, 48, 48]
    assert len({said(reply) for reply in found}) == 1


def test_a_fault_in_a_draw_is_that_request_s_500_and_changes_no_neighbour(server):
    with company(server) as expected:
        pass
    with company(server) as neighbours:
        bad = ask(server, DRAW_SEED)
        stream = ask(server, DRAW_SEED, stream=True)
    assert bad.status_code == 500
    assert bad.headers["x-request-id"] in bad.json()["error"]["message"]
    assert '"internal_error"' in stream.text.strip().splitlines()[-1]
    assert stream.headers["x-request-id"] in stream.text
    assert "planted" not in bad.text + stream.text
    assert [said(reply) for reply in neighbours] == [said(reply) for reply in expected]
    assert server.alive()


def test_a_fault_in_the_pass_ends_what_was_in_it_and_the_process_lives(server):
    alone = said(ask(server))
    process = server.service.models["tiny"].worker._source.process.pid
    with company(server) as neighbours:
        bad = ask(server, prompt=[*PASS_PROMPT, 5])
    for reply in (bad, *neighbours):
        assert reply.status_code == 500
        assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
    assert server.alive() and server.service.models["tiny"].worker._source.process.pid == process
    assert said(ask(server)) == alone
    figures = server.service.models["tiny"].worker
    assert figures.running == 0 and server.service.admission.used == 0
