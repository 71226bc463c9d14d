"""Changing requests that carry an idempotency key: done once, answered alike each time."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store.once import once
from puna.web.site.site import reply, site_of
from puna.web.site.viewer import Viewer

Made = dict[str, Any]
T = TypeVar("T")


async def written_once(
    request: Request, viewer: Viewer, body: BaseModel, make: Callable[[Session], Made]
) -> Response:
    """`make(session)` as the answer; the first one again if the request's key came before."""
    made, _ = await written(request, viewer, body, make, lambda session, made: None)
    return reply(made)


async def written(
    request: Request,
    viewer: Viewer,
    body: BaseModel,
    make: Callable[[Session], Made],
    then: Callable[[Session, Made], T],
) -> tuple[Made, T]:
    """What `make` says, and what `then` finds in the same transaction; that is not kept."""
    key = request.headers.get("idempotency-key", "")
    said = f"{request.method} {request.url.path}\n{body.model_dump_json()}"
    digest = hashlib.sha256(said.encode()).hexdigest()

    def work(session: Session) -> tuple[Made, T]:
        made = once(session, viewer.id, key, digest, lambda: make(session))
        return made, then(session, made)

    return await site_of(request).write(work)
