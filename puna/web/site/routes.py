"""Routes of the pages, each with the role that it takes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from puna.store.tables import ROLES
from puna.web.site.viewer import NOBODY, Viewer

Endpoint = Callable[[Request, Viewer], Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)


@dataclass(frozen=True)
class Route:
    """One method of one path: who may take it, and what answers."""

    method: str
    path: str
    role: str  # the least; NOBODY: open to all
    endpoint: Endpoint


class Routes:
    """What a module answers.

    routes = Routes()

    @routes.get("/annotate", role="annotator")
    async def annotate(request: Request, viewer: Viewer) -> Response: ...
    """

    def __init__(self) -> None:
        """None yet."""
        self.found: list[Route] = []

    def get(self, path: str, role: str) -> Callable[[E], E]:
        """A page, or what a page reads."""
        return self._add("GET", path, role)

    def post(self, path: str, role: str) -> Callable[[E], E]:
        """Something that changes the store."""
        return self._add("POST", path, role)

    def put(self, path: str, role: str) -> Callable[[E], E]:
        """Something that is there afterwards, however often it is sent."""
        return self._add("PUT", path, role)

    def delete(self, path: str, role: str) -> Callable[[E], E]:
        """Something that is gone afterwards."""
        return self._add("DELETE", path, role)

    def _add(self, method: str, path: str, role: str) -> Callable[[E], E]:
        if role not in (NOBODY, *ROLES):
            raise ValueError(f"{method} {path}: no role {role!r}")

        def keep(endpoint: E) -> E:
            self.found.append(Route(method, path, role, endpoint))
            return endpoint

        return keep
