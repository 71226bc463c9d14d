"""The OpenAPI document: what every route takes and answers, errors included.

These records describe answers; the answers themselves are written as they grow (`puna.web.reply`).
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from puna import __version__
from puna.web.schemas import Strict

Json = dict[str, Any]
PLACE = "#/components/schemas/"
ERRORS = {
    400: "the request is not as described; `param` names the field",
    401: "a key is missing or not known",
    403: "the key may not do this, or the server does not answer to this host name",
    404: "there is no such model or page",
    405: "there is no such method here",
    408: "the request did not come in time",
    413: "the body is too large",
    415: "the body is not plain JSON in UTF-8",
    429: "a quota is used up, or the queue is full; `retry-after` says when to come again",
    431: "the head is too large",
    500: "a fault inside the server; the message holds the id of its line in the log",
    503: "the model is not loaded, or the server is stopping",
}


class Told(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Told):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(Told):
    """The answer to a request that failed."""

    error: ErrorDetail


class CachedTokens(Told):
    """Tokens of prompts that were there from earlier requests."""

    cached_tokens: int


class Usage(Told):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Timings(Told):
    """Seconds, and tokens a second."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    guessed_tokens: int
    accepted_tokens: int
    queue_seconds: float
    prompt_seconds: float
    decode_seconds: float
    first_token_seconds: float
    total_seconds: float
    prompt_per_second: float
    completion_per_second: float


class Context(Told):
    """What was kept of a conversation, and how long its answer could be."""

    policy: str
    kept: int
    dropped: int
    max_tokens: int
    max_tokens_cut: bool


class CalledFunction(Told):
    """A function and its arguments as JSON in a text."""

    name: str
    arguments: str


class Call(Told):
    """A call of a function."""

    id: str
    type: str
    function: CalledFunction


class AssistantMessage(Told):
    """What the assistant says."""

    role: str
    content: str | None
    tool_calls: list[Call] | None = None


class TokenLogprob(Told):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]
    id: int


class AnswerToken(TokenLogprob):
    """A token of an answer, and its alternatives."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Told):
    """The tokens of an answer."""

    content: list[AnswerToken]
    refusal: None


class ChatChoice(Told):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None


class Answered(Told):
    """What every answer of a model begins with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    timings: Timings


class ChatDocument(Answered):
    """The answer of `/v1/chat/completions`."""

    choices: list[ChatChoice]
    context: Context


class CompletionLogprobs(Told):
    """The tokens of a text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Told):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None


class CompletionDocument(Answered):
    """The answer of `/v1/completions`."""

    choices: list[CompletionChoice]


class PromptUsage(Told):
    """Numbers of tokens where nothing is written."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Told):
    """One vector of length 1; as base64, float32 in little-endian order."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingDocument(Told):
    """The answer of `/v1/embeddings`."""

    object: str
    model: str
    data: list[Embedding]
    usage: PromptUsage


class ModelRecord(Told):
    """A model that can be asked."""

    id: str
    object: str
    created: int
    owned_by: str
    context: int | None
    format: str | None
    weights: str | None


class ModelList(Told):
    """The models that can be asked."""

    object: str
    data: list[ModelRecord]


class TokenizeDocument(Told):
    """The ids of a text, and the text of each id."""

    ids: list[int]
    pieces: list[str]
    count: int


class DetokenizeDocument(Told):
    """The text of ids."""

    text: str


class RenderDocument(Told):
    """A conversation as the model reads it."""

    ids: list[int]
    text: str
    format: str
    count: int
    context: Context


class HealthDocument(Told):
    """Whether every model can be asked."""

    status: str
    models: dict[str, str]


REPLIES: tuple[type[BaseModel], ...] = (
    *(ErrorReply, ChatDocument, CompletionDocument, EmbeddingDocument, ModelRecord, ModelList),
    *(TokenizeDocument, DetokenizeDocument, RenderDocument, HealthDocument),
)


def described(
    reply: type[BaseModel] | None,
    *errors: int,
    request: type[Strict] | None = None,
    stream: bool = False,
    kind: str = "application/json",
) -> Json:
    """The keywords of a route: its answers, its errors, its body."""
    schema = {"$ref": PLACE + reply.__name__} if reply else {"type": "string"}
    content = {kind: {"schema": schema}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    failed = {"application/json": {"schema": {"$ref": PLACE + "ErrorReply"}}}
    always = (400, 401, 403, 408, 431, 500, 503, *((413, 415) if request else ()))
    answers: Json = {"200": {"description": "the answer", "content": content}}
    for status in sorted({*errors, *always}):
        answers[str(status)] = {"description": ERRORS[status], "content": failed}
    extra: Json = {"responses": answers}
    if request is not None:
        body = {"application/json": {"schema": {"$ref": PLACE + request.__name__}}}
        extra["requestBody"] = {"required": True, "content": body}
        REQUESTS.add(request)
    return {"openapi_extra": extra, "response_model": None}


REQUESTS: set[type[Strict]] = set()


def document(app: FastAPI, keys: bool) -> Json:
    """The whole document. keys: whether one is needed."""
    from fastapi.openapi.utils import get_openapi

    about = "The Llama 2 recipe's engine, as OpenAI's clients speak to it, and a few routes more."
    found: Json = get_openapi(
        title="Puna", version=__version__, description=about, routes=app.routes
    )
    requests = sorted(REQUESTS, key=lambda model: model.__name__)
    models: list[Any] = [(model, "validation") for model in requests]
    models += [(model, "serialization") for model in REPLIES]
    _, schemas = models_json_schema(models, ref_template=PLACE + "{model}")
    components = found.setdefault("components", {})
    components["schemas"] = schemas["$defs"]
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
        found["paths"]["/health"]["get"]["security"] = []
    return found
