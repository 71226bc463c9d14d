"""Changing requests that carry an idempotency key: done once, answered alike each time."""

import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store.once import once
from puna.web.site.site import reply, site_of
from puna.web.site.viewer import Viewer


async def written_once(
    request: Request, viewer: Viewer, body: BaseModel, make: Callable[[Session], dict[str, Any]]
) -> Response:
    """`make(session)` as the answer; the first one again if the request's key came before."""
    key = request.headers.get("idempotency-key", "")
    said = f"{request.method} {request.url.path}\n{body.model_dump_json()}"
    digest = hashlib.sha256(said.encode()).hexdigest()

    def work(session: Session) -> dict[str, Any]:
        return once(session, viewer.id, key, digest, lambda: make(session))

    return reply(await site_of(request).write(work))
