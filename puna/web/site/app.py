"""The pages as one application: every route behind the door."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as Path
from starlette.staticfiles import StaticFiles

from puna.errors import InputError
from puna.store.faults import Conflict, Missing, Refused, Unavailable
from puna.web.failures import ApiError
from puna.web.site import (
    accounts,
    admin,
    annotate,
    campaigns,
    chat,
    gallery,
    preparing,
    profile,
    quality,
    redteam,
    redteam_review,
    review,
)
from puna.web.site.door import Door, denied, viewer_of
from puna.web.site.routes import Route, Routes
from puna.web.site.site import HERE, Site, page, site_of
from puna.web.site.viewer import Viewer
from puna.web.site.writers import Writers

PAGES: Sequence[Routes] = (
    accounts.routes,
    annotate.routes,
    campaigns.routes,
    review.routes,
    profile.routes,
    admin.routes,
    chat.routes,
    gallery.routes,
    quality.routes,
    redteam.routes,
    redteam_review.routes,
)


class Statics(StaticFiles):
    """Files that a browser keeps, and asks about each time: a new version is seen at once."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        """A file, with a word on how long it holds."""
        response = super().file_response(*args, **named)
        response.headers["cache-control"] = "no-cache"
        return response


def build(site: Site) -> Starlette:
    """The application of a site."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with preparing.running(site), chat.talking(site, app.state.writers):
            yield
        site.close()

    paths: dict[str, list[Route]] = {}
    for route in all_routes():
        paths.setdefault(route.path, []).append(route)
    app = Starlette(
        routes=[
            *(_path(path, routes) for path, routes in paths.items()),
            Mount("/static", Statics(directory=HERE / "static")),
        ],
        exception_handlers={ApiError: _told, HTTPException: _no_route},
        lifespan=life,
    )
    app.router.redirect_slashes = False
    app.state.site, app.state.writers = site, Writers()
    app.state.pages = {route.path: route.role for route in all_routes() if route.method == "GET"}
    app.add_middleware(Door, site=site)
    return app


def all_routes() -> list[Route]:
    """Every route of every page."""
    return [route for routes in PAGES for route in routes.found]


def _path(path: str, routes: Sequence[Route]) -> Path:
    by_method = {route.method: route for route in routes}

    async def answer(request: Request) -> Response:
        route = by_method["GET" if request.method == "HEAD" else request.method]
        viewer = Viewer()
        try:
            viewer = await viewer_of(request, route.role)
            return await route.endpoint(request, viewer)
        except (InputError, Missing, Conflict, Unavailable) as error:
            if isinstance(error, Missing):
                await denied(request, viewer)
            raise told(error) from None

    return Path(path, answer, methods=list(by_method))


def told(error: Exception) -> ApiError:
    """What the store says, with a status."""
    if isinstance(error, Missing):
        return ApiError(404, "there is no such thing here")
    if isinstance(error, Conflict):
        return ApiError(409, str(error), code="conflict")
    if isinstance(error, Unavailable):
        return ApiError(503, str(error), code="unavailable", headers={"retry-after": "2"})
    field = error.field if isinstance(error, Refused) else None
    return ApiError(400, str(error), field)


async def _told(request: Request, error: Exception) -> Response:
    """The error as JSON, or as a page for who opened a page; log in, where nobody is."""
    assert isinstance(error, ApiError)
    if not _opens_page(request):
        return JSONResponse(error.record, error.status, error.headers)
    viewer = getattr(request.state, "viewer", Viewer())
    name = "login" if error.status == 401 else "error"
    shown = page(
        request,
        viewer,
        name,
        status=error.status,
        message=error.message,
        single=site_of(request).single_user,
    )
    shown.status_code = error.status
    shown.headers.update({k: v for k, v in error.headers.items() if k != "www-authenticate"})
    return shown


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such thing here", 405: "this cannot be asked that way"}
    message = words.get(error.status_code, str(error.detail))
    return await _told(request, ApiError(error.status_code, message, headers=error.headers))


def _opens_page(request: Request) -> bool:
    wanted = "text/html" in request.headers.get("accept", "")
    return wanted and request.method in ("GET", "HEAD") and not request.url.path.startswith("/api/")
