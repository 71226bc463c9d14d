"""Every route of the pages, by every method, as everybody: only what was declared is open."""

import re
import secrets
from collections.abc import Iterator

import pytest

from puna.store import audit
from puna.store.tables import ROLES
from puna.text.tokenizer import Tokenizer
from puna.web.site.app import all_routes
from puna.web.site.door import COOKIE, OPENS, REPORTS, SAFE
from puna.web.site.routes import Route
from puna.web.site.site import Site
from puna.web.site.tries import Rates
from puna.web.site.viewer import NOBODY, Viewer
from tests.pages import Pages, add_account, serving_pages

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
EVERYBODY = (NOBODY, *ROLES)

Walked = tuple[str, str, str, int]  # method, path, role, status


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    def change(site: Site) -> None:
        site.rates = Rates(10**6, 10**6, 10**6, 10**6)

    folder = tmp_path_factory.mktemp("walk")
    with serving_pages(folder, tiny_tokenizer, change=change) as found:
        found.person("Ada", "admin")  # so that nobody who walks is the last one
        yield found


def url_of(path: str) -> str:
    """An address below a route, of what is not there."""
    return re.sub(r"\{\w+(:\w+)?\}", lambda m: "987654" if m[1] == ":int" else "nothing", path)


def somebody(pages: Pages, role: str) -> tuple[dict[str, str], int]:
    """What the browser of somebody new sends, and who that is."""
    headers = {"origin": pages.running.url, "x-csrf": "token", "sec-fetch-site": "same-origin"}
    if role == NOBODY:
        return headers, 0
    cookie = secrets.token_hex(16)
    number = add_account(pages.store, f"walker {cookie}", role, cookie, "token")
    return headers | {"cookie": f"{COOKIE}={cookie}"}, number


def ask(pages: Pages, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of the answer."""
    body = {} if method in ("GET", "HEAD", "DELETE") else {"json": {}}
    with pages.running.http().stream(method, url_of(path), headers=headers, **body) as answer:
        return answer.status_code


def allowed(route: Route, status: int) -> bool:
    """Whether this can be what a route says to who may take it, sent nothing of sense."""
    absent = status == 404 and ("{" in route.path or route.path in OPENS)
    return absent or (status < 500 and status not in (401, 403, 404, 405, 415))


@pytest.mark.parametrize("role", EVERYBODY, ids=lambda role: role or "nobody")
def test_every_route_answers_those_it_declares_and_no_others(pages: Pages, role: str) -> None:
    wrong: list[Walked] = []
    headers, number = somebody(pages, role)
    for route in all_routes():
        may = Viewer(role=role).may(route.role)
        if may and route.method != "GET":  # it may end the session
            headers, number = somebody(pages, role)
        status = ask(pages, route.method, route.path, headers)
        if may:
            fine = allowed(route, status)
        elif role == NOBODY:
            fine = status == 401
        else:
            with pages.store.read() as session:
                line = audit.lines(session, account_id=number, limit=1)[0]
            told = f"{route.method} {url_of(route.path)}"
            fine = status == 404 and (line["action"], line["object"]) == ("denied", told)
        if not fine:
            wrong.append((route.method, route.path, role, status))
    assert wrong == []


@pytest.mark.parametrize("role", ["", "admin"], ids=["nobody", "admin"])
def test_no_route_takes_a_method_that_it_does_not_declare(pages: Pages, role: str) -> None:
    declared: dict[str, set[str]] = {}
    for route in all_routes():
        more = {"GET", "HEAD"} if route.method == "GET" else {route.method}
        declared[route.path] = declared.get(route.path, set()) | more
    wrong: list[Walked] = []
    headers, _ = somebody(pages, role)
    for path, methods in declared.items():
        for method in set(METHODS) - methods:
            status = ask(pages, method, path, headers)
            if status != 405:
                wrong.append((method, path, role, status))
    assert wrong == []


@pytest.mark.parametrize("left_out", ["origin", "x-csrf"])
def test_what_changes_something_needs_an_origin_and_a_token(pages: Pages, left_out: str) -> None:
    wrong: list[Walked] = []
    headers, _ = somebody(pages, "admin")
    del headers[left_out]
    for route in all_routes():
        begins = left_out == "x-csrf" and route.path in OPENS
        if route.method in SAFE or route.path == REPORTS or begins:
            continue
        status = ask(pages, route.method, route.path, headers)
        if status != 403:
            wrong.append((route.method, route.path, "admin", status))
    assert wrong == []


def test_what_changes_something_takes_json_alone(pages: Pages) -> None:
    wrong = []
    ada = pages.person("Ada", "admin").http
    for route in all_routes():
        if route.method in SAFE or route.path == REPORTS:
            continue
        kind = {"content-type": "text/plain"}
        answer = ada.request(route.method, url_of(route.path), content=b"{}", headers=kind)
        if answer.status_code != 415:
            wrong.append((route.method, route.path, answer.status_code))
    assert wrong == []


def test_the_walk_meets_pages_of_every_role(pages: Pages) -> None:
    assert {route.role for route in all_routes()} >= {NOBODY, "annotator", "admin"}
    found = [(route.method, route.path) for route in all_routes()]
    assert len(found) == len(set(found)) > 20


def test_an_address_that_leads_nowhere_is_404_and_no_path_leads_out(pages: Pages) -> None:
    cookie = pages.person("Ada", "admin").cookie
    for path in (
        *("/api", "/api/", "/people/", "//people", "/PEOPLE", "/static", "/static/", "/static/.."),
        *("/static/../site.py", "/static/%2e%2e/site.py", "/static/..%2fsite.py", "/.git/config"),
        *("/api/people/1e9/role", "/api/sessions/-1", "/%00", "/static/%00", "/puna.db"),
    ):
        head = f"host: localhost\r\ncookie: {COOKIE}={cookie}\r\nconnection: close\r\n\r\n"
        answer = pages.running.say(f"GET {path} HTTP/1.1\r\n{head}".encode())  # as it stands
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), (path, answer[:200])


def test_an_enormous_number_is_a_number_of_nobody(pages: Pages) -> None:
    ada = pages.person("Ada", "admin").http
    for number in (2**31, 2**63 - 1, 2**63, 10**40):
        answer = ada.delete(f"/api/sessions/{number}")
        assert answer.status_code in (400, 404), number
