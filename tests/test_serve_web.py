"""`puna serve --web`: settings that go together, the first link, the API's key."""

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from puna import cli
from puna.errors import InputError
from puna.web import serve
from puna.web.site import start
from tests.web import until

WORDS = "nine llamas in snow"


def service(**settings: object):
    return serve.service_of(serve.Config(web=True, **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "--origin=https://NAME"),
        ({"host": "10.0.0.7"}, "--origin=https://NAME"),
        ({"origin": "http://puna.example"}, "expected https://NAME"),
        ({"origin": "https://puna.example/"}, "expected https://NAME"),
        ({"origin": "https://Puna.example"}, "small letters"),
        ({"origin": "puna.example"}, "expected https://NAME"),
        ({"origin": "https://"}, "expected https://NAME"),
        ({"origin": "https://a@puna.example"}, "expected https://NAME"),
        ({"origin": "https://puna.example", "single_user": True}, "only on this machine"),
        (
            {"host": "0.0.0.0", "origin": "http://localhost:8080", "single_user": True},
            "only on this machine",
        ),
    ],
)
def test_pages_that_others_could_read_on_the_way_are_refused(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        service(**settings)


@pytest.mark.parametrize(
    ("settings", "closed"),
    [
        ({}, False),
        ({"origin": "http://localhost:9000"}, False),
        ({"origin": "https://puna.example"}, True),
        ({"host": "0.0.0.0", "origin": "https://puna.example:8443"}, True),
        ({"host": "0.0.0.0", "origin": "http://localhost:8080"}, True),
    ],
)
def test_the_api_is_closed_without_keys_where_others_reach_it(
    settings: dict[str, object], closed: bool
) -> None:
    made = service(**settings)
    assert bool(made.keys) == closed
    assert not closed or made.keys.find(b"anything") is None


def test_the_api_answers_to_the_name_of_the_origin() -> None:
    assert "puna.example" in service(origin="https://puna.example:8443").hosts


@pytest.mark.parametrize(
    "word", ["--single-user", "--origin=https://a.example", "--proxy=10.0.0.1"]
)
def test_a_setting_of_the_pages_needs_the_pages(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "smollm2", word]) == 2
    assert "expected --web too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store={}/a/b/c.db"], "store:"),
        (["--store=mysql://x/y"], "store: mysql"),
        (["--store={}/text.txt"], "store:"),
        (["--proxy=nothing"], "proxy: "),
    ],
)
def test_a_store_or_proxy_that_is_none_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    (tmp_path / "text.txt").write_text("this is no database, but a text " * 40)
    (tmp_path / "a").write_text("no folder")
    monkeypatch.setattr(serve, "log_to_stderr", lambda: None)  # it would outlive this test
    own = [f"--store={tmp_path}/puna.db"] if "proxy" in words[0] else []
    given = [word.format(tmp_path) for word in words]
    assert cli.main(["serve", "--web", "--port=0", *own, *given]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert len(lines) == 1


def test_a_container_reaches_its_pages_at_this_machines_name() -> None:
    start.check_origin("0.0.0.0", False, "http://localhost:8080", False)
    start.check_origin("::", False, "https://puna.example", False)


class Served:
    """`puna serve --web` without a model, in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-m", "puna", "serve", "--web", "--port=0", *words]
        command.append(f"--store={folder / 'puna.db'}")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.lines.extend(iter(lines.readline, ""))

    def begun(self) -> None:
        """Wait until it answers."""
        assert until(lambda: "ready" in self.text, 30), self.text

    @property
    def text(self) -> str:
        """What it said so far."""
        return "".join(self.lines)

    @property
    def token(self) -> str:
        """That of the link; empty: there is none."""
        found = re.search(r"/welcome#(\S+)", self.text)
        return found[1] if found else ""

    def client(self) -> httpx2.Client:
        """A browser at its own page."""
        found = re.search(r"pages: (http://[\d.:]+)/", self.text)
        assert found, self.text
        return httpx2.Client(base_url=found[1], headers={"origin": found[1]}, verify=False)

    def end(self) -> int:
        """Its exit status."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.reader.join(5)
        return code


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[list[Served]]:
    made: list[Served] = []
    yield made
    for served in made:
        served.process.kill()
        served.process.wait()


def test_pages_without_a_model_begin_with_a_link_until_there_is_an_admin(
    tmp_path: Path, serving: list[Served]
) -> None:
    serving.append(first := Served(tmp_path))
    first.begun()
    assert stat.S_IMODE(os.stat(tmp_path / "puna.db").st_mode) == 0o600
    assert first.end() == 0
    serving.append(second := Served(tmp_path))
    second.begun()
    with second.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").json()["data"] == []
        old = client.post("/api/welcome/look", json={"token": first.token})
        assert first.token != second.token and old.status_code == 404
        body = {"token": second.token, "name": "Ada", "password": WORDS}
        assert client.post("/api/welcome", json=body).json()["role"] == "admin"
        assert second.end() == 0
    serving.append(third := Served(tmp_path))
    third.begun()
    assert third.token == "" and "welcome" not in third.text
    with third.client() as client:
        body = {"name": "ada", "password": WORDS}
        assert client.post("/api/login", json=body).status_code == 200
    assert WORDS not in third.text and "ada" not in third.text.lower()
    with sqlite3.connect(tmp_path / "puna.db") as database:
        kept = database.execute("SELECT password FROM accounts").fetchone()[0]
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_single_user_gets_a_link_at_every_start(tmp_path: Path, serving: list[Served]) -> None:
    for _ in range(2):
        serving.append(served := Served(tmp_path, "--single-user"))
        served.begun()
        with served.client() as client:
            assert client.get("/api/me").status_code == 401
            body = {"token": served.token}
            assert client.post("/api/welcome", json=body).json()["name"] == "you"
        assert served.end() == 0
