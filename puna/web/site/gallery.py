"""Every component of the pages on one page: to look at, and for the tests."""

from starlette.requests import Request
from starlette.responses import Response

from puna.web.site.routes import Routes
from puna.web.site.site import page
from puna.web.site.viewer import Viewer

routes = Routes()


@routes.get("/gallery", role="admin")
async def gallery(request: Request, viewer: Viewer) -> Response:
    """The components."""
    return page(request, viewer, "gallery")
