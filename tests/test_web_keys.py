"""Keys, quotas and turns: who is answered, how often, and in which order (S62 to S64)."""

import asyncio
import hashlib
import hmac
import logging
import re
from types import SimpleNamespace

import pytest

from puna.errors import InputError
from puna.web.admission import Admission
from puna.web.failures import ApiError
from puna.web.keys import Key, Keys, add_key, bearer, read_keys
from puna.web.quotas import Bucket, Quota, Quotas
from tests.web import serving, until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "tea"}]}
CHAT = "/v1/chat/completions"
ALICE, BOB, ADMIN = "puna-alice", "puna-bob", "puna-admin"


def key(name: str, text: str, **settings) -> Key:
    return Key(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), **settings)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory, tiny_tokenizer):
    keys = Keys(
        [
            key("alice", ALICE),
            key("bob", BOB, models=("tiny:fr",)),
            key("admin", ADMIN, admin=True),
            key("few", "puna-few", requests_per_minute=2),
            key("short", "puna-short", tokens_per_minute=60),
            key("one", "puna-one", concurrent=1),
        ]
    )
    folder = tmp_path_factory.mktemp("web")
    with serving(folder, tiny_tokenizer, keys=keys, token=ALICE) as running:
        yield running


@pytest.fixture
def server(shared_server):
    shared_server.fake.reset()
    return shared_server


def walk(server):
    """Every (method, path) of the application, and of what it does not have."""
    routes = server.server.config.app.app.routes
    paths = {getattr(route, "path", "") for route in _flat(routes)} - {""}
    assert {CHAT, "/metrics", "/v1/models/{name}", "/openapi.json"} <= paths
    paths |= {"/", "/docs", "/redoc", "/slots", "/static/../x", "//v1/models", "/v1//models"}
    paths |= {"/%2e%2e/v1/models", "/v1/models;x", "/v1/models/", "/health/", "/HEALTH", "//health"}
    paths |= {"/health;/../v1/models", "/health%2f..%2fmetrics", "/v1/models?api_key=" + ALICE}
    for path in sorted(paths):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"):
            yield method, path


def _flat(routes):
    for route in routes:
        yield route
        yield from _flat(getattr(getattr(route, "original_router", route), "routes", []))


def test_without_a_key_everything_but_health_is_closed(server):
    opened = set()
    http = server.http("")
    for method, path in walk(server):
        reply = http.request(method, path)
        if reply.status_code not in (401, 403, 404):
            opened.add((method, path))
    assert opened <= {("GET", "/health"), ("BREW", "/health")} | {
        (method, path) for method, path in walk(server) if method == "BREW"
    }
    assert ("GET", "/health") in opened


@pytest.mark.parametrize("host", ["x?", "a/../b", "evil.example", "localhost@evil", "localhost:x"])
def test_a_strange_host_opens_nothing(server, host):
    http = server.http("")
    for path in ("/health", "/metrics", "/v1/models"):
        assert http.get(path, headers={"host": host}).status_code in (400, 401, 403)


WRONG = {
    "none": {},
    "wrong": {"authorization": "Bearer puna-wrong"},
    "a prefix": {"authorization": f"Bearer {ALICE[:-1]}"},
    "longer": {"authorization": f"Bearer {ALICE}x"},
    "other case": {"authorization": f"Bearer {ALICE.upper()}"},
    "empty": {"authorization": "Bearer"},
    "no scheme": {"authorization": ALICE},
    "another scheme": {"authorization": f"Basic {ALICE}"},
    "another header": {"x-api-key": ALICE},
    "a cookie": {"cookie": f"authorization=Bearer {ALICE}"},
    "30 KB": {"authorization": "Bearer " + "x" * 30_000},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_opens_nothing(server, case):
    http = server.http("")
    reply = http.get("/v1/models", headers=WRONG[case])
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json()["error"]["code"] == "invalid_api_key"


def test_a_key_of_strange_bytes_opens_nothing(server):
    head = (
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \xff\xfe\xe4\r\n\r\n"
    )
    assert b" 401 " in server.say(head)
    assert server.say(head.replace(b"\xff", b"a" * (1 << 20))).startswith(b"HTTP/1.1 431")


def test_two_authorization_headers_open_nothing(server):
    line = f"authorization: Bearer {ALICE}\r\n".encode()
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + 2 * line
    assert b" 401 " in server.say(head + b"connection: close\r\n\r\n")


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    keys = Keys([key("a", "one"), key("b", "two"), key("c", "three")])
    assert keys.find(b"one").name == "a"
    assert len(compared) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", a) for a, _ in compared)


def test_the_tenant_of_a_request_is_its_key(server):
    server.http(ALICE).post(CHAT, json=BODY)
    server.http(ADMIN).post(CHAT, json=BODY)
    assert [asked.tenant for asked in server.fake.asked] == ["alice", "admin"]


def test_a_key_sees_and_asks_only_its_models(server):
    bob = server.http(BOB)
    assert [model["id"] for model in bob.get("/v1/models").json()["data"]] == ["tiny:fr"]
    assert bob.post(CHAT, json=BODY).status_code == 403
    assert bob.post(CHAT, json={**BODY, "model": "tiny:fr"}).status_code == 200


def test_the_figures_are_for_admins(server):
    assert server.http(ALICE).get("/metrics").status_code == 403
    assert server.http(ADMIN).get("/metrics").status_code == 200


def test_requests_beyond_the_quota_are_told_when_to_come_again(server):
    http = server.http("puna-few")
    replies = [http.post(CHAT, json=BODY) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [r.headers["x-ratelimit-remaining-requests"] for r in replies] == ["1", "0", "0"]
    assert 0 < int(replies[2].headers["retry-after"]) <= 30
    assert server.http(ALICE).post(CHAT, json=BODY).status_code == 200


def test_tokens_beyond_the_quota_are_refused_and_unused_ones_come_back(server):
    http = server.http("puna-short")
    first = http.post(CHAT, json={**BODY, "max_tokens": 40})
    used = first.json()["usage"]["total_tokens"]
    assert used < 40
    assert until(lambda: server.service.quotas.of(key_of(server, "short")).running == 0)
    left = server.service.quotas.of(key_of(server, "short")).tokens.left
    assert left == pytest.approx(60 - used, abs=2)
    second = http.post(CHAT, json={**BODY, "max_tokens": 50})
    assert second.status_code == 429
    assert second.headers["x-ratelimit-limit-tokens"] == "60"


def key_of(server, name: str) -> Key:
    return next(key for key in server.service.keys._keys if key.name == name)


def test_requests_at_the_same_time_are_bounded(server):
    server.fake.mute = True
    http = server.http("puna-one")
    with server.connect() as sock:
        body = b'{"model":"tiny","messages":[{"role":"user","content":"a"}]}'
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        head += "authorization: Bearer puna-one\r\ncontent-type: application/json\r\n\r\n"
        sock.sendall(head.encode() + body)
        assert until(lambda: server.fake.asked)
        assert http.post(CHAT, json=BODY).status_code == 429
    server.fake.mute = False
    assert until(lambda: http.post(CHAT, json=BODY).status_code == 200)


# --- the file of keys


def test_a_new_key_is_kept_as_a_digest_only(tmp_path):
    path = tmp_path / "keys.toml"
    text = add_key(path, "alice")
    assert text not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_keys(path).find(text.encode()).name == "alice"
    other = add_key(path, "bob")
    keys = read_keys(path)
    assert (keys.find(text.encode()).name, keys.find(other.encode()).name) == ("alice", "bob")
    with pytest.raises(InputError, match="alice has a key"):
        add_key(path, "alice")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no key"),
        ("a = 1", "a: "),
        ('[a]\nsha256 = "12"', "a: "),
        (f'[a]\nsha256 = "{"0" * 64}"\nrequests = 1', "a: "),
        (f'[a]\nsha256 = "{"0" * 64}"\nname = "b"', "a.name"),
        (f'[a]\nsha256 = "{"0" * 64}"\nconcurrent = 0', "a: "),
        (f'["a b"]\nsha256 = "{"0" * 64}"', "no name"),
        (f'[a]\nsha256 = "{"0" * 64}"\n[b]\nsha256 = "{"0" * 64}"', "the same key"),
    ],
)
def test_a_wrong_file_of_keys_is_refused(tmp_path, text, match):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_keys(tmp_path / "keys.toml")


def test_a_key_comes_from_one_bearer_header_only():
    assert bearer([b"Bearer abc"]) == b"abc"
    assert bearer([b"bearer  abc "]) == b"abc"
    assert bearer([]) is bearer([b"abc"]) is bearer([b"Bearer a", b"Bearer b"]) is None


# --- buckets and turns


def clock():
    time = SimpleNamespace(now=0.0)
    return time, lambda: time.now


def test_a_bucket_fills_evenly_up_to_its_size():
    time, now = clock()
    bucket = Bucket(60, 60.0, now)
    bucket.take(60)
    assert bucket.wait(3) == pytest.approx(3.0)
    time.now = 2.0
    assert bucket.left == pytest.approx(2.0)
    time.now = 1000.0
    assert bucket.left == 60.0


def test_more_than_a_bucket_holds_is_let_through_when_it_is_full():
    _, now = clock()
    bucket = Bucket(10, 60.0, now)
    assert bucket.wait(25) == 0.0
    bucket.take(25)
    assert bucket.wait(1) == pytest.approx(96.0)


def test_a_ticket_is_settled_once():
    _, now = clock()
    quota = Quota(key("a", "a", tokens_per_day=100, concurrent=1), now)
    ticket = quota.admit(80)
    with pytest.raises(ApiError) as caught:
        quota.admit(1)
    assert caught.value.status == 429
    ticket.settle(30)
    ticket.settle(30)
    assert (quota.running, quota.daily.left) == (0, 70.0)


def test_keys_take_turns_in_the_queue():
    async def play() -> list[str]:
        admission, order = Admission(1, 100), []

        async def one(name: str) -> None:
            async with admission.place(name, 1, 5):
                order.append(name)
                await asyncio.sleep(0)

        async with admission.place("first", 1, 5):
            tasks = [asyncio.create_task(one("many")) for _ in range(5)]
            await asyncio.sleep(0)
            tasks += [asyncio.create_task(one("few")) for _ in range(2)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert admission.used == admission.waiting == 0
        return order

    assert asyncio.run(play()) == ["many", "few", "many", "few", "many", "many", "many"]


def test_a_full_queue_and_a_late_turn_are_refused():
    async def play() -> list[int]:
        admission, found = Admission(2, 1), []
        async with admission.place("a", 2, 5):
            late = asyncio.create_task(_refused(admission, 0.05))
            await asyncio.sleep(0)
            found.append(await _refused(admission, 5))
            found.append(await late)
        async with admission.place("a", 50, 5):  # more answers than slots: all slots
            assert admission.used == 2
        return [*found, admission.used, admission.waiting]

    assert asyncio.run(play()) == [429, 503, 0, 0]


async def _refused(admission: Admission, seconds: float) -> int:
    with pytest.raises(ApiError) as caught:
        async with admission.place("b", 1, seconds):
            pass
    return caught.value.status


def test_a_turn_that_comes_as_its_owner_leaves_is_given_back():
    async def play() -> tuple[int, int]:
        admission = Admission(1, 5)
        async with admission.place("a", 1, 5):
            waiting = asyncio.create_task(_hold(admission))
            await asyncio.sleep(0)
        waiting.cancel()  # its turn has just come
        await asyncio.gather(waiting, return_exceptions=True)
        return admission.used, admission.waiting

    assert asyncio.run(play()) == (0, 0)


async def _hold(admission: Admission) -> None:
    async with admission.place("b", 1, 5):
        await asyncio.sleep(10)


def test_a_changed_file_of_keys_is_followed_and_a_damaged_one_is_not(
    tmp_path, tiny_tokenizer, caplog
):
    path = tmp_path / "keys.toml"
    alice, bob = add_key(path, "alice"), add_key(path, "bob")
    caplog.set_level(logging.INFO, "puna.web")
    with serving(tmp_path, tiny_tokenizer, keys=read_keys(path), token=alice) as server:

        def status(token: str) -> int:
            return server.http(token).get("/v1/models").status_code

        assert [status(alice), status(bob), status("puna-other")] == [200, 200, 401]
        whole = path.read_text()
        carol = add_key(path, "carol")
        assert status(carol) == 200
        path.write_text(whole.split("[bob]")[0])  # bob's and carol's are taken back
        assert [status(alice), status(bob), status(carol)] == [200, 401, 401]
        for damaged in ("[alice", "", "[alice]\nsha256 = 5\n"):
            caplog.clear()
            path.write_text(damaged)
            assert [status(alice), status(bob), status(alice)] == [200, 401, 200]
            [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
            assert line.startswith("the keys stay as they were:") and "\n" not in line
        caplog.clear()
        path.unlink()
        assert [status(alice), status(bob)] == [200, 401]
        assert sum(r.levelno == logging.ERROR for r in caplog.records) == 1
        path.write_text(whole)
        assert [status(alice), status(bob)] == [200, 200]


def test_new_limits_of_a_key_hold_at_once_and_what_was_used_stays_used():
    now = [0.0]
    quotas = Quotas(lambda: now[0])
    ticket = quotas.of(key("a", ALICE, tokens_per_day=100, concurrent=1)).admit(80)
    with pytest.raises(ApiError, match="1 requests at the same time"):
        quotas.of(key("a", ALICE, tokens_per_day=90, concurrent=1)).admit(1)
    ticket.settle(80)
    with pytest.raises(ApiError, match="limited to 90 tokens a day"):
        quotas.of(key("a", ALICE, tokens_per_day=90)).admit(11)
    quotas.of(key("a", ALICE, tokens_per_day=90)).admit(10)
    quotas.of(key("a", ALICE)).admit(1000)
