"""The pages' door: cookies, origins, tokens, log-in, rates, headers (W78 to W83)."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest

from puna.store import audit, logins, people
from puna.store.passwords import Cost, Passwords
from puna.text.tokenizer import Tokenizer
from puna.web.failures import ApiError
from puna.web.site.app import all_routes
from puna.web.site.door import own_origin
from puna.web.site.hashing import Hashing
from puna.web.site.site import Site
from puna.web.site.tries import Rates, Tries, Turnstile, network
from tests.pages import Pages, serving_pages

QUICK = Cost(1, 8, 1)
WORDS = "nine llamas in snow"


class Counting(Passwords):
    """Counts what it is asked, and how many at once."""

    def __init__(self) -> None:
        super().__init__(QUICK)
        self.asked = self.running = self.most = 0
        self.lock = threading.Lock()

    def matches(self, kept: str | None, password: str) -> bool:
        with self.lock:
            self.asked += 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return super().matches(kept, password)
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture
def pages(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Iterator[Pages]:
    def change(site: Site) -> None:
        site.hashing = Hashing(Counting())

    with serving_pages(tmp_path, tiny_tokenizer, change=change) as found:
        yield found


def browser(pages: Pages, **headers: str) -> httpx2.Client:
    """A browser without a session, at our own page."""
    own = {"origin": pages.running.url, **headers}
    client = httpx2.Client(base_url=pages.running.url, headers=own, timeout=20, verify=False)
    pages.running.clients.append(client)
    return client


def known(pages: Pages, name: str = "Anna", role: str = "annotator") -> int:
    """An account with a password."""
    with pages.store.write() as session:
        kept = pages.site.hashing.passwords.hashed(WORDS)
        return people.add_account(session, name, role, kept).id


def log_in(client: httpx2.Client, name: str = "Anna", password: str = WORDS) -> httpx2.Response:
    return client.post("/api/login", json={"name": name, "password": password})


def actions(pages: Pages) -> list[str]:
    with pages.store.read() as session:
        return [line["action"] for line in audit.lines(session)]


# W78: requests that another page made


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": ""},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-csrf": ""},
        {"x-csrf": b"\xc3\xa9"},
    ],
)
def test_what_another_page_sends_is_refused(pages: Pages, headers: dict[str, str | bytes]) -> None:
    anna = pages.person("Anna")
    assert anna.http.delete("/api/sessions", headers=headers).status_code == 403
    assert anna.http.delete("/api/sessions").status_code == 200


def test_what_comes_without_an_origin_is_refused(pages: Pages) -> None:
    known(pages)
    client = browser(pages)
    del client.headers["origin"]
    assert log_in(client).status_code == 403
    anna = pages.person("Bo")
    del anna.http.headers["origin"]
    assert anna.http.delete("/api/sessions").status_code == 403


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_what_a_form_can_send_is_refused(pages: Pages, kind: str) -> None:
    known(pages)
    body = b'{"name": "Anna", "password": "nine llamas in snow"}'
    client = browser(pages)
    headers = {"content-type": kind} if kind else {}
    assert client.post("/api/login", content=body, headers=headers).status_code == 415
    anna = pages.person("Bo")
    told = anna.http.post("/api/logout", content=b"{}", headers=headers)
    assert told.status_code == 415


def test_another_page_reads_nothing_below_api(pages: Pages) -> None:
    anna = pages.person("Anna")
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        assert anna.http.get("/api/me", headers={"sec-fetch-site": site}).status_code == status
    assert anna.http.get("/profile", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost:x", "", "a@b"]
)
def test_a_foreign_name_that_was_bent_to_this_machine_is_refused(pages: Pages, host: str) -> None:
    answer = pages.person("Anna").http.get("/api/me", headers={"host": host})
    assert answer.status_code in (400, 403)


def test_the_origin_is_the_one_that_was_set_or_this_machine() -> None:
    site = Site(None, None, "https://puna.example")  # type: ignore[arg-type]
    assert own_origin(site, "puna.example") == "https://puna.example"
    assert own_origin(site, "localhost:8080") == "http://localhost:8080"
    site.origin = ""
    assert own_origin(site, "127.0.0.1:9") == "http://127.0.0.1:9"


def test_cookies_are_bound_to_the_host_and_to_tls_where_there_is_tls(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    def change(site: Site) -> None:
        site.hashing, site.origin = Hashing(Passwords(QUICK)), "https://puna.example"

    with serving_pages(tmp_path, tiny_tokenizer, change=change) as pages:
        known(pages)
        client = browser(pages, host="puna.example", origin="https://puna.example")
        told = log_in(client)
        attributes = told.headers["set-cookie"].lower().split("; ")
        assert attributes[0].startswith("__host-puna=")
        assert {"httponly", "secure", "samesite=lax", "path=/"} <= set(attributes)
        assert not any(part.startswith("domain") for part in attributes)
        assert "strict-transport-security" in told.headers
        assert log_in(browser(pages, host="other.example")).status_code == 403
        token = told.headers["set-cookie"].split("=", 1)[1].split(";")[0]
        for name, status in (("__Host-puna", 200), ("puna", 401)):
            own = {"host": "puna.example", "cookie": f"{name}={token}"}
            assert browser(pages, **own).get("/api/me").status_code == status


def test_on_this_machine_the_cookie_goes_without_tls_and_stays_hidden_from_scripts(
    pages: Pages,
) -> None:
    known(pages)
    attributes = log_in(browser(pages)).headers["set-cookie"].lower().split("; ")
    assert attributes[0].startswith("puna=") and "secure" not in attributes
    assert {"httponly", "samesite=lax", "path=/"} <= set(attributes)


# W79: sessions


def test_a_session_begins_with_a_new_token_whatever_the_browser_brought(pages: Pages) -> None:
    number = known(pages)
    client = browser(pages, cookie="puna=chosen-by-somebody-else")
    given = log_in(client).cookies["puna"]
    assert given != "chosen-by-somebody-else" and len(given) == 43
    again = browser(pages, cookie=f"puna={given}")
    second = log_in(again).cookies["puna"]
    assert second != given
    with pages.store.read() as session:
        assert logins.find(session, given) is None
        assert [one["id"] for one in logins.open_logins(session, number)] == [2]


def test_a_session_that_was_left_is_dead_on_the_server(pages: Pages) -> None:
    known(pages)
    client = browser(pages)
    told = log_in(client)
    token = told.cookies["puna"]
    left = client.post("/api/logout", json={}, headers={"x-csrf": told.json()["csrf"]})
    assert left.status_code == 200 and "puna" not in client.cookies
    assert browser(pages, cookie=f"puna={token}").get("/api/me").status_code == 401


def test_a_new_password_gives_a_new_session_and_ends_all_others(pages: Pages) -> None:
    known(pages)
    here, there = browser(pages), browser(pages)
    told, _ = log_in(here), log_in(there)
    before = told.cookies["puna"]
    body = {"old": WORDS, "new": "tea at 4000 metres"}
    changed = here.post("/api/password", json=body, headers={"x-csrf": told.json()["csrf"]})
    assert changed.status_code == 200
    assert here.get("/api/me").status_code == 200
    assert here.get("/api/me").json()["csrf"] == changed.json()["csrf"] != told.json()["csrf"]
    assert there.get("/api/me").status_code == 401
    assert browser(pages, cookie=f"puna={before}").get("/api/me").status_code == 401
    assert log_in(browser(pages)).status_code == 403
    assert log_in(browser(pages), password="tea at 4000 metres").status_code == 200


def test_the_password_is_not_changed_by_who_does_not_know_it(pages: Pages) -> None:
    known(pages)
    client = browser(pages)
    csrf = log_in(client).json()["csrf"]
    body = {"old": "something else", "new": "tea at 4000 metres"}
    told = client.post("/api/password", json=body, headers={"x-csrf": csrf})
    assert told.status_code == 400 and told.json()["error"]["param"] == "old"
    assert log_in(browser(pages)).status_code == 200


def test_other_sessions_end_and_this_one_stays(pages: Pages) -> None:
    known(pages)
    here, there = browser(pages), browser(pages)
    here.headers["x-csrf"] = log_in(here).json()["csrf"]
    log_in(there)
    assert len(here.get("/api/sessions").json()["sessions"]) == 2
    assert here.delete("/api/sessions").json() == {"ended": 1}
    assert there.get("/api/me").status_code == 401 and here.get("/api/me").status_code == 200


def test_no_token_is_in_an_address_that_a_server_or_a_referer_sees(pages: Pages) -> None:
    with pages.store.write() as session:
        token = people.set_up(session)
    client = browser(pages)
    assert client.post("/api/welcome/look", json={"token": token}).status_code == 200
    assert client.get(f"/welcome?token={token}").text == client.get("/welcome").text
    assert client.get("/welcome").headers["referrer-policy"] == "no-referrer"
    script = (Path(__file__).parent.parent / "puna/web/site/static/door.js").read_text()
    assert "location.hash" in script and "history.replaceState" in script


def test_the_last_use_is_written_once_a_minute_at_most(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(logins, "touch", lambda session, number: written.append(number))
    anna = pages.person("Anna")
    for _ in range(3):
        anna.http.get("/api/me")
    assert written == []
    with pages.store.write() as session:
        session.get(logins.Login, 1).seen -= 61
    anna.http.get("/api/me")
    assert written == [1]


# W80: guessing


def test_known_and_unknown_names_get_the_same_answer_and_the_same_work(pages: Pages) -> None:
    known(pages)
    pages.person("Bo")  # has no password
    with pages.store.write() as session:
        people.disable(session, people.add_account(session, "Out", "annotator", "x").id)
    told = []
    for name in ("Anna", "Nobody", "Bo", "Out", "\u202e", ""):
        answer = log_in(browser(pages), name, "a wrong password")
        counted = pages.site.hashing.passwords
        told.append((answer.status_code, answer.text, sorted(answer.headers), counted.asked))
        counted.asked = 0
    assert (
        len({(status, text, tuple(headers), asked) for status, text, headers, asked in told}) == 1
    )
    assert told[0][0] == 403 and told[0][3] == 1


def test_guessing_a_password_takes_longer_and_longer_also_for_names_that_are_not_there(
    pages: Pages,
) -> None:
    known(pages)
    for name in ("Anna", "Nobody"):
        status = [log_in(browser(pages), name, f"guess {n}").status_code for n in range(8)]
        assert status == [403] * 5 + [429] * 3
    last = log_in(browser(pages), "Anna")  # the right one must wait too
    assert last.status_code == 429 and int(last.headers["retry-after"]) >= 1


def test_a_hundred_guesses_at_once_are_few_hashes_and_two_at_a_time(pages: Pages) -> None:
    known(pages)
    client = browser(pages)
    with ThreadPoolExecutor(25) as pool:
        found = list(
            pool.map(lambda n: log_in(client, "Anna", f"guess {n}").status_code, range(100))
        )
    counted = pages.site.hashing.passwords
    assert set(found) <= {403, 429} and found.count(403) <= 6
    assert counted.asked == found.count(403) and counted.most <= 2


class Clock:
    """A clock that stands still."""

    time = 1000.0

    def __call__(self) -> float:
        return self.time


def failures(tries: Tries, clock: Clock, name: str, address: str, count: int) -> list[float]:
    """The seconds waited before each failure."""
    waited = []
    for _ in range(count):
        begun = clock.time
        while True:
            try:
                tries.begin(name, address)
                break
            except ApiError as error:
                clock.time += int(error.headers["retry-after"])
        waited.append(clock.time - begun)
    return waited


def test_the_wait_doubles_to_a_bound_and_is_forgotten_after_an_hour() -> None:
    clock = Clock()
    tries = Tries(clock)
    waited = failures(tries, clock, "anna", "10.0.0.1", 18)
    assert waited == [0] * 5 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    clock.time += 3601
    assert failures(tries, clock, "anna", "10.0.0.1", 6) == [0, 0, 0, 0, 0, 1]


def test_many_names_from_one_address_are_slowed_and_another_address_is_not() -> None:
    clock = Clock()
    tries = Tries(clock)
    for number in range(20):
        tries.begin(f"name {number}", "10.0.0.1")
    with pytest.raises(ApiError):
        tries.begin("one more", "10.0.0.1")
    tries.begin("one more", "10.0.0.2")


def test_a_stranger_who_guesses_does_not_shut_the_person_out_at_home() -> None:
    clock = Clock()
    tries = Tries(clock)
    tries.begin("anna", "10.0.0.1")
    tries.succeeded("anna", "10.0.0.1")
    for number in range(5):
        tries.begin("anna", f"10.9.0.{number}")
    with pytest.raises(ApiError):
        tries.begin("anna", "10.9.0.99")
    tries.begin("anna", "10.0.0.1")


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    tries, stile = Tries(Clock(), most=10), Turnstile(5, Clock(), most=10)
    for number in range(100):
        tries.begin(f"name {number}", f"10.0.0.{number}")
        stile.wait(number)
    assert len(tries._counts) <= 10 and len(stile._buckets) <= 10


def test_an_ipv6_customer_is_one_address() -> None:
    assert (
        network("2001:db8:1:2::3") == network("2001:db8:1:2:ffff::1") != network("2001:db8:1:3::3")
    )
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") == "10.0.0.1"


def test_too_many_requests_wait_but_those_of_somebody_else_do_not(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    def change(site: Site) -> None:
        site.rates = Rates(account=5, address=3)

    with serving_pages(tmp_path, tiny_tokenizer, change=change) as pages:
        anna, bo = pages.person("Anna"), pages.person("Bo")
        assert [anna.http.get("/api/me").status_code for _ in range(6)] == [200] * 5 + [429]
        assert bo.http.get("/api/me").status_code == 200
        assert [browser(pages).get("/login").status_code for _ in range(4)] == [200] * 3 + [429]
        assert bo.http.get("/api/me").status_code == 200
        assert browser(pages).get("/static/puna.css").status_code == 200


def test_a_hash_is_made_anew_at_log_in_when_it_costs_more_now(pages: Pages) -> None:
    with pages.store.write() as session:
        kept = Passwords(Cost(2, 8, 1)).hashed(WORDS)
        number = people.add_account(session, "Anna", "annotator", kept).id
    assert log_in(browser(pages)).status_code == 200
    with pages.store.read() as session:
        assert "t=1" in (people.account_of(session, number).password or "")
    assert log_in(browser(pages)).status_code == 200


def test_an_address_counts_from_a_proxy_that_was_named_and_from_nobody_else(
    pages: Pages,
) -> None:
    def failed_from(chain: str) -> str:
        log_in(browser(pages, **{"x-forwarded-for": chain}), "Nobody", "x")
        with pages.store.read() as session:
            return str(audit.lines(session)[0]["address"])

    assert failed_from("203.0.113.9") == "127.0.0.1"
    pages.site.proxies = (ip_network("127.0.0.1"), ip_network("10.0.0.0/8"))
    assert failed_from("203.0.113.9") == "203.0.113.9"
    assert failed_from("1.2.3.4, 203.0.113.9, 10.0.0.7") == "203.0.113.9"
    assert failed_from("1.2.3.4, rubbish") == "127.0.0.1"


# W81: the first start


def test_nobody_comes_in_without_a_link_and_there_is_no_password_from_the_start(
    pages: Pages,
) -> None:
    client = browser(pages)
    for name, password in (("admin", "admin"), ("you", ""), ("puna", "puna")):
        assert log_in(client, name, password).status_code == 403
    body = {"token": "", "name": "Eve", "password": WORDS}
    assert client.post("/api/welcome", json=body).status_code == 404
    assert client.post("/api/welcome", json=body | {"token": "x" * 43}).status_code == 404


def test_a_link_makes_an_admin_who_invites_and_both_are_in(pages: Pages) -> None:
    with pages.store.write() as session:
        token = people.set_up(session)
    ada, bo = browser(pages), browser(pages)
    body = {"token": token, "name": "Ada", "password": WORDS}
    told = ada.post("/api/welcome", json=body)
    assert told.json()["role"] == "admin" and ada.get("/api/me").json()["name"] == "Ada"
    assert browser(pages).post("/api/welcome", json=body | {"name": "Eve"}).status_code == 404
    ada.headers["x-csrf"] = told.json()["csrf"]
    made = ada.post("/api/invites", json={"role": "annotator", "note": "Bo"})
    link = {"token": made.json()["token"]}
    assert bo.post("/api/welcome/look", json=link).json()["role"] == "annotator"
    weak = bo.post("/api/welcome", json=link | {"name": "Bo", "password": "password123"})
    assert weak.status_code == 400 and weak.json()["error"]["param"] == "password"
    bo.post("/api/welcome", json=link | {"name": "Bo", "password": WORDS})
    assert bo.get("/api/me").json()["role"] == "annotator"
    assert actions(pages) == ["login", "joined", "invited", "login", "joined"]


def test_a_single_user_comes_in_by_the_link_alone(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    def change(site: Site) -> None:
        site.single_user = True

    with serving_pages(tmp_path, tiny_tokenizer, change=change) as pages:
        with pages.store.write() as session:
            token = people.single_user(session)
        client = browser(pages)
        assert client.get("/api/me").status_code == 401  # being on this machine is not enough
        told = client.post("/api/welcome", json={"token": token})
        assert told.json()["name"] == "you"
        assert client.get("/api/me").json()["role"] == "admin"
        client.headers["x-csrf"] = told.json()["csrf"]
        assert client.post("/api/invites", json={"role": "admin"}).status_code == 400
        foreign = {"origin": "https://evil.example"}
        assert client.delete("/api/sessions", headers=foreign).status_code == 403
        assert browser(pages).post("/api/welcome", json={"token": token}).status_code == 404


def test_a_single_users_link_opens_no_teams_server(pages: Pages) -> None:
    with pages.store.write() as session:
        token = people.single_user(session)
    assert browser(pages).post("/api/welcome", json={"token": token}).status_code == 400


# W82: what is not for somebody


def test_what_one_may_not_have_looks_like_what_is_not_there_and_is_written_down(
    pages: Pages,
) -> None:
    anna = pages.person("Anna")
    other = pages.person("Bo")
    hidden, absent = anna.http.get("/api/people"), anna.http.get("/api/nothing")
    assert (
        (hidden.status_code, hidden.json())
        == (absent.status_code, absent.json())
        == (
            404,
            absent.json(),
        )
    )
    assert anna.http.delete("/api/sessions/2").status_code == 404  # Bo's
    assert other.http.get("/api/me").status_code == 200
    with pages.store.read() as session:
        lines = audit.lines(session, action="denied")
    assert [line["object"] for line in lines] == ["DELETE /api/sessions/2", "GET /api/people"]
    assert {line["account_id"] for line in lines} == {anna.id}


def test_admins_change_roles_shut_out_and_give_new_passwords(pages: Pages) -> None:
    ada, number = pages.person("Ada", "admin"), known(pages)
    anna = browser(pages)
    log_in(anna)
    at = f"/api/people/{number}"
    assert ada.http.put(f"{at}/role", json={"role": "reviewer"}).status_code == 200
    assert anna.get("/api/me").status_code == 401
    assert log_in(anna).json()["role"] == "reviewer"
    assert ada.http.put(f"{at}/disabled", json={"disabled": True}).status_code == 200
    assert anna.get("/api/me").status_code == 401 and log_in(anna).status_code == 403
    assert ada.http.post(f"{at}/reset", json={}).status_code == 400
    assert ada.http.put(f"{at}/disabled", json={"disabled": False}).status_code == 200
    token = ada.http.post(f"{at}/reset", json={}).json()["token"]
    body = {"token": token, "password": "tea at 4000 metres"}
    assert anna.post("/api/welcome", json=body).json()["name"] == "Anna"
    assert log_in(browser(pages)).status_code == 403
    own = f"/api/people/{ada.id}"
    assert ada.http.put(f"{own}/role", json={"role": "annotator"}).status_code == 409
    assert ada.http.put(f"{own}/disabled", json={"disabled": True}).status_code == 409
    found = ada.http.get("/api/audit?action=role_changed").json()
    assert [line["detail"] for line in found["lines"]] == [{"role": "reviewer"}]


def test_an_invite_that_was_withdrawn_is_useless(pages: Pages) -> None:
    ada = pages.person("Ada", "admin")
    token = ada.http.post("/api/invites", json={"role": "annotator"}).json()["token"]
    listed = ada.http.get("/api/people").json()["invites"]
    assert token not in str(listed)
    assert ada.http.delete(f"/api/invites/{listed[0]['id']}").status_code == 200
    assert browser(pages).post("/api/welcome/look", json={"token": token}).status_code == 404


def test_one_takes_ones_data_along_and_deletes_it(pages: Pages) -> None:
    pages.person("Ada", "admin")
    number = known(pages)
    client = browser(pages)
    client.headers["x-csrf"] = log_in(client).json()["csrf"]
    data = client.get("/api/me/data")
    assert data.json()["account"][0]["name"] == "Anna"
    assert "attachment" in data.headers["content-disposition"]
    for body in ({"name": "Ada", "password": WORDS}, {"name": "Anna", "password": "wrong"}):
        assert client.post("/api/me/erase", json=body).status_code == 400
    erased = client.post("/api/me/erase", json={"name": "anna", "password": WORDS})
    assert erased.status_code == 200
    assert client.get("/api/me").status_code == 401 and log_in(browser(pages)).status_code == 403
    with pages.store.read() as session:
        assert session.get(people.Account, number).erased is not None


# W83: headers


def test_every_answer_has_the_headers_also_faults(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError("private text")

    anna = pages.person("Anna")
    monkeypatch.setattr(logins, "open_logins", fault)
    for path, status in (
        ("/", 200),
        ("/api/me", 200),
        ("/nothing", 404),
        ("/api/sessions", 500),
        ("/static/puna.css", 200),
        ("/static/nothing.js", 404),
    ):
        answer = anna.http.get(path)
        assert answer.status_code == status, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        kept = "no-cache" if path.startswith("/static") else "no-store"
        assert answer.headers["cache-control"] == kept
        assert "private text" not in answer.text


def test_every_page_of_the_site_has_the_headers_and_no_token_in_its_links(pages: Pages) -> None:
    ada = pages.person("Ada", "admin")
    paths = {r.path for r in all_routes() if r.method == "GET" and not r.path.startswith("/api/")}
    assert {"/", "/login", "/welcome", "/chat", "/audit", "/quality"} <= paths
    for path in sorted(re.sub(r"{\w+:int}", "1", path) for path in paths):
        answer = ada.http.get(path, headers={"accept": "text/html"})
        assert answer.status_code in (200, 404), path
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["cache-control"] == "no-store", path
        assert answer.headers["referrer-policy"] == "no-referrer", path
        assert ada.cookie not in answer.text, path
        links = re.findall(r'(?:href|src|action)="([^"]*)"', answer.text)
        assert [link for link in links if ada.csrf in link or "token=" in link] == [], path


def test_static_files_are_asked_for_again_by_their_etag(pages: Pages) -> None:
    client = browser(pages)
    tag = client.get("/static/puna.css").headers["etag"]
    again = client.get("/static/puna.css", headers={"if-none-match": tag})
    assert again.status_code == 304


def test_a_page_that_is_opened_without_a_session_is_the_log_in_and_a_wrong_one_says_so(
    pages: Pages,
) -> None:
    html = {"accept": "text/html"}
    answer = browser(pages).get("/profile", headers=html)
    assert answer.status_code == 401 and 'id="login"' in answer.text
    assert "www-authenticate" not in answer.headers
    wrong = pages.person("Anna").http.get("/people", headers=html)
    assert wrong.status_code == 404 and "There is no such thing here" in wrong.text


@pytest.mark.parametrize(
    "path", ["/", "/login", "/welcome", "/profile", "/people", "/audit", "/nothing"]
)
def test_a_page_has_no_script_style_or_handler_of_its_own(pages: Pages, path: str) -> None:
    text = pages.person("Ada", "admin").http.get(path, headers={"accept": "text/html"}).text
    assert (
        re.findall(r"<script(?![^>]* src=)|<style|style=|\son\w+=|javascript:|https?://", text)
        == []
    )


def test_reports_of_the_policy_are_counted_and_bounded(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    def change(site: Site) -> None:
        site.rates = Rates(reports=3)

    with serving_pages(tmp_path, tiny_tokenizer, change=change) as pages:
        client = httpx2.Client(base_url=pages.running.url, timeout=20, verify=False)
        pages.running.clients.append(client)
        kind = {"content-type": "application/csp-report"}
        told = {"csp-report": {"blocked-uri": "https://evil.example/" + "x" * 900}}
        assert client.post("/csp", json=told, headers=kind).status_code == 204
        assert client.post("/csp", content=b"x" * 20_000, headers=kind).status_code == 413
        assert client.post("/csp", content=b"[]", headers=kind).status_code == 204
        assert client.post("/csp", json=told, headers=kind).status_code == 429
        assert len(pages.site.reports) == 2
        assert pages.site.reports[0]["blocked-uri"].startswith("https://evil.example/")
        assert len(pages.site.reports[0]["blocked-uri"]) == 300


def test_a_server_that_stops_takes_nothing_more(pages: Pages) -> None:
    anna = pages.person("Anna")
    pages.running.service.stopping = True
    assert anna.http.get("/api/me").status_code == 503
    pages.running.service.stopping = False
