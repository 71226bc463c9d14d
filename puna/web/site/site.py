"""What all pages share: the models' service, the store, the templates, where the site stands."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import jinja2
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from puna.store.store import Store
from puna.web.service import Service
from puna.web.site.hashing import Hashing
from puna.web.site.navigation import OWN, entries
from puna.web.site.tries import Rates, Tries, Turnstile
from puna.web.site.viewer import Viewer

if TYPE_CHECKING:
    from puna.web.site.preparing import Preparer

HERE = Path(__file__).parent

P = ParamSpec("P")
T = TypeVar("T")


def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


@dataclass
class Site:
    """The pages of one server."""

    service: Service
    store: Store
    origin: str = ""  # where browsers find it, such as https://puna.example; empty: this machine
    single_user: bool = False  # one person, without a password, on this machine only
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # whose X-Forwarded-For is believed
    hashing: Hashing = field(default_factory=Hashing)
    rates: Rates = field(default_factory=Rates)
    tries: Tries = field(default_factory=Tries)
    # the newest reports of what a page was not allowed to load or run
    reports: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=100))
    preparer: "Preparer | None" = None  # while the site runs
    templates: jinja2.Environment = field(default_factory=_templates)
    _turnstiles: dict[str, Turnstile] = field(default_factory=dict)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "store"))

    def turnstile(self, name: str) -> Turnstile:
        """The buckets of one of the `rates`."""
        if name not in self._turnstiles:
            self._turnstiles[name] = Turnstile(getattr(self.rates, name))
        return self._turnstiles[name]

    async def read(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """What `work(session, ...)` finds in the store, beside the event loop."""
        return await self._beside(partial(self._reading, work, *args, **named))

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """What `work(session, ...)` says; what it changed is on the disk before this returns."""
        return await self._beside(partial(self._writing, work, *args, **named))

    def close(self) -> None:
        """Let the threads end: what they have begun is still done."""
        self._threads.shutdown(wait=False)
        self.hashing.close()

    async def _beside(self, job: Callable[[], T]) -> T:
        # A write that has begun ends, whether or not its client waits for it.
        running = asyncio.get_running_loop().run_in_executor(self._threads, job)
        return await asyncio.shield(running)

    def _reading(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        with self.store.read() as session:
            return work(session, *args, **named)

    def _writing(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        with self.store.write() as session:
            return work(session, *args, **named)


def site_of(request: Request) -> Site:
    """The site that a request is for."""
    site: Site = request.app.state.site
    return site


def page(request: Request, viewer: Viewer, name: str, **values: Any) -> Response:
    """The page of templates/NAME.html.j2. Every text in it is escaped."""
    template = site_of(request).templates.get_template(f"{name}.html.j2")
    models = list(site_of(request).service.models)
    path, there = request.url.path, request.app.state.pages
    links, menu = entries(viewer, path, there), entries(viewer, path, there, OWN)
    shared = {"viewer": viewer, "here": name, "models": models, "links": links, "menu": menu}
    assert not shared.keys() & values.keys(), f"{name}: a value has the name of a shared one"
    return HTMLResponse(template.render(shared | values))


def reply(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return JSONResponse(value, status)
