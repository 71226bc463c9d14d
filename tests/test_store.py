"""The store on both databases: whole or not at all, in order of ids, and nothing silent."""

from puna.store.store import Store, now
from puna.store.tables import Account


def account(name: str, role: str = "annotator") -> Account:
    return Account(name=name, folded=name.casefold(), role=role, created=now())


def test_x(store: Store) -> None:
    with store.write() as session:
        session.add(account("Anna"))
    with store.read() as session:
        assert session.query(Account).count() == 1
