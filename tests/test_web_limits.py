"""What the server refuses, and that it lives on: heads, bodies, fields (S47 to S56, S65, S66)."""

import json
import resource
import socket
import time

import pytest

from puna.text.patterns import expanded
from puna.web.protocol import Bounds
from puna.web.service import Limits
from tests.web import CONTEXT, drained, post, serving

USER = [{"role": "user", "content": "tea"}]
CHAT = "/v1/chat/completions"
BOUNDS = Bounds(connections=300, head_seconds=0.5, body_seconds=0.5, write_seconds=0.5)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("web")
    limits = Limits(body=100_000, request_seconds=30)
    with serving(folder, tiny_tokenizer, limits=limits, bounds=BOUNDS) as running:
        yield running


@pytest.fixture
def server(shared_server):
    shared_server.fake.reset()
    yield shared_server
    assert shared_server.alive()


def status(answer: bytes) -> int:
    """The status of a response; 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def refusal(server, fields):
    """(status, field) of a chat request with these fields; those named None are left out."""
    body = {"model": "tiny", "messages": USER, **fields}
    reply = server.http().post(CHAT, content=json.dumps(body).encode(), headers=JSON)
    error = reply.json().get("error", {})
    return reply.status_code, error.get("param")


JSON = {"content-type": "application/json"}


# --- heads and connections


def test_slow_heads_are_closed_at_the_deadline_and_others_are_served(server):
    socks = [server.connect() for _ in range(200)]
    begun = time.monotonic()
    for sock in socks:
        sock.sendall(b"GET /health HTTP/1.1\r\nx:")
    assert server.alive()
    answers = []
    for sock in socks:
        while time.monotonic() - begun < 0.4:
            time.sleep(0.1)
            sock.sendall(b"a")  # a byte now and then does not buy time
        answers.append(status(drained(sock)))
        sock.close()
    assert set(answers) == {408}


def test_a_slow_body_is_closed_at_the_deadline(server):
    with server.connect() as sock:
        sock.sendall(post(CHAT, b"x" * 50)[:-40])
        assert status(drained(sock)) == 408


def test_a_silent_connection_is_closed(server):
    with server.connect() as sock:
        assert drained(sock) == b""


def test_connections_above_the_cap_are_told_to_come_later(server):
    socks = [server.connect() for _ in range(330)]
    try:
        late = [drained(sock) for sock in socks[-20:]]
        assert {status(answer) for answer in late} == {503}
        assert b"retry-after" in late[0]
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.slow
def test_ten_thousand_idle_connections_leave_the_server_alive(tmp_path, tiny_tokenizer):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 24_000)
    if wanted < 14_000:
        pytest.skip(f"needs 14,000 open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    socks = []
    try:
        with serving(tmp_path, tiny_tokenizer, bounds=Bounds(head_seconds=60)) as server:
            before = rss()
            for _ in range(10_000):
                sock = socket.socket()
                sock.settimeout(5)
                sock.connect(("127.0.0.1", server.port))
                socks.append(sock)
            assert rss() - before < 200 << 20
            for sock in socks:
                sock.close()
            time.sleep(0.5)
            assert server.alive()
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rss() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


HEADS = {
    "64 KB of head": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 65536, 431),
    "1 MB of head": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * (1 << 20), 431),
    "1 MB of target": (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
    "10,000 lines": (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
        431,
    ),
    "101 lines": (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        431,
    ),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", 400),
    "bad host": (b"GET /health HTTP/1.1\r\nhost: a/b?c\r\n\r\n", 400),
    "another host": (b"GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n", 403),
    "length and chunks": (
        b"POST /v1/tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunks and length": (
        b"POST /v1/tokenize HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
        b"content-length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (
        b"POST /v1/tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n"
        b"content-length: 2\r\n\r\n{}",
        400,
    ),
    "negative length": (
        b"POST /v1/tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        400,
    ),
    "garbled chunk": (
        b"POST /v1/tokenize HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
        b"content-type: application/json\r\n\r\nzz\r\n",
        400,
    ),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + b"\0" * 200, 400),
    "an upgrade": (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_wrong_head_ends_the_connection(server, head):
    data, expected = HEADS[head]
    assert status(server.say(data)) == expected


# --- bodies


def test_a_body_over_the_limit_is_refused_by_its_length(server):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with server.connect() as sock:
        sock.sendall(f"{head}content-length: 100001\r\n\r\n".encode())
        assert status(drained(sock)) == 413


def test_a_body_over_the_limit_in_chunks_is_refused(server):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    data = f"{head}transfer-encoding: chunked\r\n\r\n".encode()
    assert status(server.say(data + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 40)) == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
    ],
)
def test_what_is_not_plain_json_is_not_read(server, headers):
    body = b"--x\r\n\r\na" * 10_000 if "boundary" in str(headers) else b"a;" * 40_000
    assert server.http().post(CHAT, content=body, headers=headers).status_code == 415


BODIES = {
    "100,000 deep": b"[" * 100_000,
    "deep and whole": b'{"model":' + b"[" * 900 + b"]" * 900 + b"}",
    "70 deep": b'{"model":' + b"[" * 70 + b"]" * 70 + b"}",
    "5,000 digits": b'{"model": ' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "a key twice": b'{"model": "tiny", "model": "tiny"}',
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": -Infinity}',
    "NUL": b'{"model": "a\\u0000b"}',
    "half a pair": b'{"model": "\\ud800"}',
    "half a pair in a key": b'{"\\udfff": 1}',
    "nothing": b"",
    "a list": b"[]",
    "two values": b"{} {}",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("body", BODIES)
def test_strange_json_is_refused(server, body):
    reply = server.http().post(CHAT, content=BODIES[body], headers=JSON)
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert len(reply.json()["error"]["message"]) < 600


# --- fields

WRONG = ("-1", "1.5", "1e9", "1e999", "NaN", "true", '"5"', "9223372036854775808", "[]", "{}")
WHOLE = ("n", "seed", "top_k", "max_tokens", "max_completion_tokens", "min_tokens", "top_logprobs")
REAL = (
    *("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "max_seconds"),
)
FINE = {
    *((field, "-1") for field in ("presence_penalty", "frequency_penalty")),
    *((f, "1.5") for f in ("temperature", "presence_penalty", "frequency_penalty")),
    *((f, "1.5") for f in ("repetition_penalty", "max_seconds")),
}


@pytest.mark.parametrize("field", [*WHOLE, *REAL])
def test_every_wrong_number_is_refused_by_its_field(server, field):
    extra = ', "logprobs": true' if field == "top_logprobs" else ""
    http = server.http()
    for value in WRONG:
        if (field, value) in FINE:
            continue
        body = f'{{"model": "tiny", "messages": {json.dumps(USER)}, "{field}": {value}{extra}}}'
        reply = http.post(CHAT, content=body.encode(), headers=JSON)
        found = (reply.status_code, reply.json()["error"]["param"])
        assert found == (400, field), value


def test_null_stands_for_a_field_that_is_left_out_only_where_it_may_be(server):
    assert refusal(server, {"temperature": None}) == (400, "temperature")
    assert refusal(server, {"n": None}) == (400, "n")
    assert refusal(server, {"seed": None})[0] == 200


HUGE = {
    "n": {"n": 10**9},
    "best_of": {"best_of": 5},
    "top_logprobs": {"logprobs": True, "top_logprobs": 10**9},
    "max_tokens": {"max_tokens": 10**9},
    "stop": {"stop": ["a"] * 10_000},
    "stop_token_ids": {"stop_token_ids": [1] * 10_000},
    "logit_bias": {"logit_bias": {str(i): 1 for i in range(5000)}},
}


@pytest.mark.parametrize("field", HUGE)
def test_huge_requests_are_refused(server, field):
    assert refusal(server, HUGE[field]) == (400, field)
    assert server.fake.asked == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": "x" * 50_000}, "stop"),
        ({"stop": []}, "stop"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"384": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [384]}, "stop_token_ids"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"anything": 1}, "anything"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"max_seconds": 31}, "max_seconds"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_a_wrong_field_is_named(server, fields, param):
    assert refusal(server, fields) == (400, param)


def test_an_answer_of_millions_of_alternatives_is_refused(server):
    many = {"model": "tiny", "prompt": ["tea"] * 32, "n": 64, "max_tokens": 400, "logprobs": 20}
    reply = server.http().post("/v1/completions", json=many)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "max_tokens")
    assert server.fake.asked == []


def test_a_refused_neighbour_changes_no_answer(server):
    alone = server.chat(seed=3).json()["choices"]
    for fields in HUGE.values():
        refusal(server, fields)
    assert server.chat(seed=3).json()["choices"] == alone


@pytest.mark.parametrize("ids", [[-1], [384], [2**31], [1.0], [True], ["1"], []])
def test_ids_of_a_prompt_are_checked(server, ids):
    reply = server.http().post("/v1/completions", json={"model": "tiny", "prompt": ids})
    assert reply.status_code == (200 if ids == ["1"] else 400)


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


SCHEMAS = {
    "deep": nested(100),
    "remote": {"$ref": "http://169.254.169.254/schema.json"},
    "a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "a long enum": {"enum": [str(i) for i in range(5000)]},
    "long": {"enum": ["x" * 70_000]},
    "many references": {"anyOf": [{"$ref": "#"}] * 300},
    "a long text": {"type": "string", "minLength": 100_000},
    "lists of lists": {"minItems": 200, "items": {"type": "array", "maxItems": 200}},
    "a long pattern": {"type": "string", "pattern": "a{100000000}"},
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_without_bound_is_refused_and_nothing_is_fetched(server, schema, monkeypatch):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[schema]}}
    http = server.http()
    http.get("/health")  # its connection is open
    opened = []
    monkeypatch.setattr(socket.socket, "connect", lambda sock, to: opened.append(to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: opened.append(args))
    body = {"model": "tiny", "messages": USER, "response_format": form}
    reply = http.post(CHAT, json=body)
    assert reply.status_code == 400 and opened == []
    assert "response_format" in reply.json()["error"]["param"]


@pytest.mark.parametrize(
    "pattern", ["a{100000000}", "(?:x{1,1000}){1,1000}", "((a{50}){50}){50}", "a{,30000}"]
)
def test_a_pattern_whose_counts_explode_is_refused(server, pattern):
    form = {"type": "regex", "pattern": pattern}
    assert refusal(server, {"response_format": form}) == (400, "response_format.pattern")


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("(ab){3}c", 7),
        ("(?:a{2}b){3}", 15),  # with the two signs after the bracket, which an upper bound may have
        (r"\d{4}-[0-9\]]{2}", 7),
        ("(a+)+$", 4),
        ("{", 1),
        ("a)(", 1),
        ("", 0),
    ],
)
def test_counts_are_written_out(pattern, length):
    assert expanded(pattern) == length


def test_what_the_worker_cannot_compile_is_the_client_s_fault(server):
    server.fake.failure = "input"
    reply = server.chat(response_format={"type": "regex", "pattern": "(a+)+$"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "planted")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "text", "text": "tea", "cache": True},
    ],
)
def test_nothing_but_text_is_taken_and_no_connection_is_made(server, part, monkeypatch):
    http = server.http()
    http.get("/health")
    opened = []
    monkeypatch.setattr(socket.socket, "connect", lambda sock, to: opened.append(to))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: opened.append(args))
    messages = [{"role": "user", "content": [part]}]
    reply = http.post(CHAT, json={"model": "tiny", "messages": messages})
    assert (reply.status_code, opened) == (400, [])
    assert reply.json()["error"]["param"].startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    "name", ["../tiny", "/etc/passwd", "tiny:../../x", "tiny:/etc", "..", "a\\b"]
)
def test_no_name_of_a_model_leads_to_a_file(server, name, monkeypatch):
    import builtins

    real, opened = open, []
    monkeypatch.setattr(
        builtins, "open", lambda *args, **kw: opened.append(args[0]) or real(*args, **kw)
    )
    assert server.chat(model=name).status_code == 404
    assert server.http().get(f"/v1/models/{name}").status_code in (404,)
    assert [path for path in opened if "passwd" in str(path) or ".." in str(path)] == []


def test_a_prompt_that_fills_the_context_but_for_one_token_is_answered(server):
    fits = {"model": "tiny", "prompt": [5] * (CONTEXT - 1), "max_tokens": 1}
    assert server.http().post("/v1/completions", json=fits).status_code == 200
    full = {**fits, "prompt": [5] * CONTEXT}
    reply = server.http().post("/v1/completions", json=full)
    assert reply.json()["error"]["code"] == "context_length_exceeded"
