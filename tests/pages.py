"""The pages for tests: a server with a store, and people who are logged in."""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from puna.store.names import folded
from puna.store.people import find_account
from puna.store.store import Store, now, open_store
from puna.store.tables import Account, Login
from puna.text.tokenizer import Tokenizer
from puna.web.service import Service
from puna.web.site.door import COOKIE
from puna.web.site.site import Site
from tests.web import Running, serving


@dataclass
class Person:
    """Somebody with a browser that is logged in; `http` sends cookie, token and origin."""

    id: int
    name: str
    http: httpx2.Client
    cookie: str
    csrf: str


@dataclass
class Pages:
    """A server with pages, its store, and its people."""

    running: Running
    store: Store
    site: Site
    people: dict[str, Person] = field(default_factory=dict)

    def person(self, name: str, role: str = "annotator") -> Person:
        """The person of this name, made and logged in the first time."""
        if name not in self.people:
            cookie, csrf = secrets.token_hex(16), secrets.token_hex(16)
            number = add_account(self.store, name, role, cookie, csrf)
            client = httpx2.Client(
                base_url=self.running.url,
                headers={"x-csrf": csrf, "origin": self.running.url},
                cookies={COOKIE: cookie},
                timeout=20,
                verify=False,
            )
            self.running.clients.append(client)
            self.people[name] = Person(number, name, client, cookie, csrf)
        return self.people[name]


def add_account(
    store: Store, name: str, role: str = "annotator", cookie: str = "", csrf: str = ""
) -> int:
    """An account without a password, logged in by `cookie` if there is one. Returns its id.

    Who is there already by that name is logged in as who they are.
    """
    with store.write() as session:
        account = find_account(session, name)
        if account is None:
            account = Account(name=name, folded=folded(name), role=role, created=now())
            session.add(account)
            session.flush()
        if cookie:
            digest = hashlib.sha256(cookie.encode()).hexdigest()
            times = {"created": now(), "seen": now(), "expires": now() + 3600}
            session.add(Login(sha256=digest, account_id=account.id, csrf=csrf, **times))
        return account.id


@contextlib.contextmanager
def serving_pages(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    change: Callable[[Site], None] = lambda site: None,
    **options: object,
) -> Iterator[Pages]:
    """A server in a thread with pages and an empty store; `change` sets up the site."""
    store = open_store(folder / "puna.db")
    made: list[Site] = []

    def pages(service: Service) -> Site:
        site = Site(service, store)
        change(site)
        made.append(site)
        return site

    try:
        with serving(folder, tokenizer, pages=pages, **options) as running:  # type: ignore[arg-type]
            yield Pages(running, store, made[0])
    finally:
        store.close()
