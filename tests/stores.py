"""Stores for tests: `store` is one on SQLite and then one on PostgreSQL.

Every test that takes `store` (conftest knows it) runs on both; on PostgreSQL it is skipped where
none is installed. `place` is where one can be made, for tests that open it themselves.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from puna.store.store import Store, open_store
from tests.postgres import postgres

__all__ = ["place", "postgres", "store"]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be made: a path, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "puna.db")
    server = request.getfixturevalue("postgres")
    return str(server.new())


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    """An empty store on each database."""
    opened = open_store(place)
    yield opened
    opened.close()
