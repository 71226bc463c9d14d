"""The application: every route, the door before them, the faults after them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.web import chat, completions, reading
from puna.web import documents as doc
from puna.web.answer import Answer
from puna.web.failures import ApiError
from puna.web.guard import Guard, inside
from puna.web.reading import trace_of
from puna.web.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RenderRequest,
    TokenizeRequest,
)
from puna.web.service import Model, Service
from puna.web.site import app as site_app
from puna.web.site.site import Site
from puna.web.validate import M, read

API_PATHS = frozenset({"/v1", "/health", "/metrics", "/openapi.json"})  # and all below /v1/
LONG = 20_000  # bytes of a body from which its tokens are made beside the event loop

Json = dict[str, Any]
router = APIRouter()


def build(service: Service, origins: Sequence[str] = (), site: Site | None = None) -> ASGIApp:
    """The application of a service; `origins` are the web pages that may speak to it.

    `site`: the pages, which answer everything that is not the API's.
    """
    pages = site_app.build(site) if site else None

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if pages is not None:
                    await stack.enter_async_context(pages.router.lifespan_context(pages))
                yield
        finally:
            await service.stop()

    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=life
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _fault)
    guarded: ASGIApp = Guard(app, service)
    if origins:  # they may speak to the API, not to the pages
        guarded = CORSMiddleware(
            guarded,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return Halves(guarded, pages) if pages is not None else guarded


class Halves:
    """The API and the pages behind one address."""

    def __init__(self, api: ASGIApp, pages: ASGIApp) -> None:
        """`api` has its own paths, `pages` all others."""
        self.api, self.pages = api, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to its half."""
        path = scope.get("path", "")
        own = scope["type"] != "http" or path.startswith("/v1/") or path in API_PATHS
        await (self.api if own else self.pages)(scope, receive, send)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.record, error.status, error.headers)


def _fault(request: Request, fault: Exception) -> Response:
    """The answer to a fault of the server; the door writes it down."""
    return _refused(request, inside(trace_of(request)))


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, str(error.detail), headers=error.headers)
    return _refused(request, told)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _made(request: Request, kind: type[M], make: Callable[..., Any]) -> Any:
    """What `make(service, trace, asked)` makes of the body; long bodies do not hold up others."""
    service, trace = _service(request), trace_of(request)
    asked = await read(request, kind, service.limits.body)
    if int(request.headers.get("content-length", LONG)) < LONG:
        return make(service, trace, asked)
    return await asyncio.to_thread(make, service, trace, asked)


@router.get("/health", **doc.described(doc.HealthDocument))
async def health(request: Request) -> Response:
    """Whether every model can be asked: 200, or 503 while one loads or is gone."""
    service = _service(request)
    states = {model.name: _state(model) for model in service.models.values()}
    fine = all(state == "ready" for state in states.values()) and not service.stopping
    if fine:
        return JSONResponse({"status": "ok", "models": states})
    word = "stopping" if service.stopping else "loading"
    what = ", ".join(f"{name} is {state}" for name, state in states.items() if state != "ready")
    raise ApiError(503, what or word, code=word, headers={"retry-after": "2"})


def _state(model: Model) -> str:
    if model.worker.ready:
        return "ready"
    if model.worker.given_up:
        return "given up"
    return "restarting" if model.worker.losses else "loading"


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """This document."""
    return JSONResponse(doc.document(request.app, bool(_service(request).keys)))


@router.get("/metrics", **doc.described(None, kind="text/plain"))
async def metrics(request: Request) -> Response:
    """Figures for Prometheus; with keys, for those of an admin."""
    service = _service(request)
    if not trace_of(request).key.admin:
        raise ApiError(403, "this key may not read the figures")
    models = list(service.models.values())
    figures = await asyncio.gather(*(model.worker.counters() for model in models))
    shown = service.metrics
    for model, values in zip(models, figures, strict=True):
        shown.worker_figures(model.name, values)
        shown.ready.labels(model.name).set(model.worker.ready is not None)
        shown.losses.labels(model.name).set(model.worker.losses)
    shown.waiting.set(service.admission.waiting)
    shown.answering.set(service.admission.used)
    return Response(shown.page(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models", **doc.described(doc.ModelList))
async def models(request: Request) -> Json:
    """The models, and their adapters as `model:adapter`."""
    found = _service(request).listed(trace_of(request).key)
    return {"object": "list", "data": [_model_record(name, model) for name, model in found]}


@router.get("/v1/models/{name}", **doc.described(doc.ModelRecord, 404))
async def one_model(request: Request, name: str) -> Json:
    """One model."""
    model, _ = _service(request).find(name, trace_of(request).key)
    return _model_record(name, model)


def _model_record(name: str, model: Model) -> Json:
    ready = model.worker.ready
    return {
        "id": name,
        "object": "model",
        "created": int(ready.since) if ready else 0,
        "owned_by": "puna",
        "context": ready.hello.context if ready else None,
        "format": ready.hello.format if ready else None,
        "weights": ready.hello.kind if ready else None,
    }


@router.post(
    "/v1/chat/completions",
    **doc.described(doc.ChatDocument, 404, 429, request=ChatRequest, stream=True),
)
async def chat_completions(request: Request) -> Response:
    """What the assistant says next."""
    job, reply = await _made(request, ChatRequest, chat.prepare)
    return Answer(_service(request), job, reply, reply.stream)


@router.post(
    "/v1/completions",
    **doc.described(doc.CompletionDocument, 404, 429, request=CompletionRequest, stream=True),
)
async def text_completions(request: Request) -> Response:
    """How texts or ids go on."""
    job, reply = await _made(request, CompletionRequest, completions.prepare)
    return Answer(_service(request), job, reply, reply.stream)


@router.post(
    "/v1/embeddings",
    **doc.described(doc.EmbeddingDocument, 404, 429, request=EmbeddingRequest),
)
async def embeddings(request: Request) -> Response:
    """The vectors of texts or ids."""
    response: Response = await _made(request, EmbeddingRequest, reading.Embeddings)
    return response


@router.post("/v1/tokenize", **doc.described(doc.TokenizeDocument, 404, request=TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """The ids of a text."""
    return JSONResponse(await _made(request, TokenizeRequest, reading.tokenized))


@router.post(
    "/v1/detokenize", **doc.described(doc.DetokenizeDocument, 404, request=DetokenizeRequest)
)
async def detokenize(request: Request) -> Response:
    """The text of ids."""
    return JSONResponse(await _made(request, DetokenizeRequest, reading.detokenized))


@router.post("/v1/render", **doc.described(doc.RenderDocument, 404, request=RenderRequest))
async def render(request: Request) -> Response:
    """A conversation as the model reads it."""
    return JSONResponse(await _made(request, RenderRequest, reading.rendered))
