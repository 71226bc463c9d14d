"""Coming in and going out: the front page, who I am."""

from starlette.requests import Request
from starlette.responses import Response

from puna.web.site.routes import Routes
from puna.web.site.site import page, reply
from puna.web.site.viewer import NOBODY, Viewer

routes = Routes()


@routes.get("/", role=NOBODY)
async def home(request: Request, viewer: Viewer) -> Response:
    """Where everything begins."""
    return page(request, viewer, "home")


@routes.get("/api/me", role="annotator")
async def me(request: Request, viewer: Viewer) -> Response:
    """Who is logged in."""
    return reply({"name": viewer.name, "role": viewer.role})
