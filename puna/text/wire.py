"""The records that the web process and an engine worker exchange over a Unix socket.

A frame is the length of its body (4 bytes, big-endian) and the body: one record in MessagePack with
its name under "type". Reading is strict: an unknown record or field, a missing one, a value of
another type or out of its range, a body above the limit, a frame that breaks off are an
`InputError`. Requests go to the worker, replies come back:

    Generate -> Prompt (if asked for), Piece ..., Done for each of the n samples
    Embed    -> Embedded
    Cancel   -> what was asked ends with Done, finish "cancelled" (nothing if it has ended already)
    Stats    -> Counters
    (connection) -> Hello
    a request that cannot be answered -> Failed; nothing more comes for its id
"""

import asyncio
import dataclasses
from typing import Annotated, Any, BinaryIO, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from puna.errors import InputError
from puna.text.completion import SamplingParams

REQUEST_BYTES = 8 << 20  # a prompt of a million tokens; a long grammar
REPLY_BYTES = 64 << 20  # log-probabilities of a long prompt with alternatives; many embeddings
EMBED_PROMPTS = 2048  # the most prompts in one Embed
SAMPLES = 1024  # the most answers to one Generate
LENGTH = 4  # bytes of a frame's length

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(max_length=256)]
Token = Annotated[int, Meta(ge=0, lt=1 << 31)]
Tokens = Annotated[list[Token], Meta(min_length=1)]
Tops = list[tuple[int, float]]  # (id, natural log-probability), the most likely first


class Record(msgspec.Struct, tag=str.lower, forbid_unknown_fields=True, kw_only=True):
    """What every record has in common; a subclass's tag is its name in small letters."""


class Generate(Record):
    """Answer a prompt `n` times. Ids must differ among the requests of a connection that run."""

    id: Id
    prompt: Tokens
    params: SamplingParams
    n: Annotated[int, Meta(ge=1, le=SAMPLES)] = 1
    adapter: Name | None = None  # one of Hello.adapters
    tenant: Name = ""  # who asks: cached prefixes are shared within a tenant only
    seconds: Annotated[float, Meta(gt=0)] | None = None  # from arrival until finish "deadline"
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None  # alternatives a prompt token
    speculate: bool = True


class Embed(Record):
    """The final hidden state after each of some prompts."""

    id: Id
    prompts: Annotated[list[Tokens], Meta(min_length=1, max_length=EMBED_PROMPTS)]
    adapter: Name | None = None
    tenant: Name = ""


class Cancel(Record):
    """Stop what was asked under this id before the next step."""

    id: Id


class Stats(Record):
    """Ask for `Counters`."""


class Hello(Record):
    """The first record on a connection: what this worker answers with."""

    model: str  # as it was named on the command line
    format: str  # prompt format of the tokenizer, as in `puna.text.tokens.FORMATS`
    context: int  # tokens
    vocab_size: int
    kind: str  # how the weights are held: float32, bfloat16, int8, int4, fp8
    adapters: list[str]
    tokenizer: str  # path of the tokenizer's file or folder
    blocks: int  # KV blocks in the pool
    version: str  # of Puna


class Piece(Record):
    """The next tokens of one sample. `text` is what may be shown now; it can lag behind `ids`."""

    id: Id
    sample: int
    ids: list[int]
    text: str
    logprobs: list[float] = []  # one an id, natural, before any token was dropped
    tops: list[Tops] = []  # one an id if SamplingParams.logprobs asked for them


class Done(Record):
    """One sample has ended; the last record of this (id, sample)."""

    id: Id
    sample: int
    finish: Literal["stop", "length", "cancelled", "deadline"]
    stop_reason: str | int | None = None  # the stop string or id that ended it
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in cached blocks
    completion_tokens: int = 0
    timings: dict[str, float] = {}  # seconds: queued, prefill, decode ... as the engine names them


class Prompt(Record):
    """Log-probabilities of a prompt's own tokens; the first has none."""

    id: Id
    logprobs: list[float | None]
    tops: list[Tops] = []


class Embedded(Record):
    """One vector a prompt: float32, little-endian, `len(vector) // 4` numbers."""

    id: Id
    vectors: list[bytes]
    prompt_tokens: int = 0


class Failed(Record):
    """A request is over without an answer: a wrong value, a fault, too many wait, or the end."""

    id: Id
    message: str
    kind: Literal["input", "internal", "busy", "stopping"]


class Counters(Record):
    """Figures of this worker, by name.."""

    values: dict[str, float]


Request = Generate | Embed | Cancel | Stats
Reply = Hello | Piece | Done | Prompt | Embedded | Failed | Counters
R = TypeVar("R")

_encoder = msgspec.msgpack.Encoder()
_PARAMS = {field.name for field in dataclasses.fields(SamplingParams)}


def encode(record: Request | Reply) -> bytes:
    """The frame of a record. InputError: it is larger than its reader accepts."""
    body = _encoder.encode(record)
    limit = REQUEST_BYTES if isinstance(record, Request) else REPLY_BYTES
    if len(body) > limit:
        raise InputError(f"{type(record).__name__}: {len(body)} bytes, expected at most {limit}")
    return len(body).to_bytes(LENGTH, "big") + body


class Side(Generic[R]):
    """One direction of a connection: its records, and the most bytes of one of them."""

    def __init__(self, name: str, records: Any, limit: int):
        self.name, self.limit = name, limit
        self._decoder: msgspec.msgpack.Decoder[R] = msgspec.msgpack.Decoder(records)

    def decode(self, body: bytes) -> R:
        """The record in a frame's body. InputError says what is wrong with it."""
        try:
            record = self._decoder.decode(body)
            if isinstance(record, Generate):
                _refuse_strange(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{self.name}: {error}") from None
        return record

    def length(self, head: bytes) -> int:
        """How many bytes the body has, from the frame's first LENGTH. InputError: too many."""
        size = int.from_bytes(head, "big")
        if not 0 < size <= self.limit:
            raise InputError(f"{self.name}: {size} bytes, expected 1 to {self.limit}")
        return size

    def read(self, stream: BinaryIO) -> R | None:
        """The next record of a buffered stream; None where it ends between two frames."""
        head = stream.read(LENGTH)
        if not head:
            return None
        size = self.length(self._whole(head, LENGTH))
        return self.decode(self._whole(stream.read(size), size))

    async def receive(self, stream: asyncio.StreamReader) -> R | None:
        """`read` from an asyncio stream."""
        try:
            head = await stream.readexactly(LENGTH)
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None
            head = error.partial
        size = self.length(self._whole(head, LENGTH))
        try:
            return self.decode(await stream.readexactly(size))
        except asyncio.IncompleteReadError as error:
            return self.decode(self._whole(error.partial, size))

    def _whole(self, data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise InputError(f"{self.name}: ends after {len(data)} of {size} bytes")
        return data


REQUESTS: Side[Request] = Side("request", Request, REQUEST_BYTES)
REPLIES: Side[Reply] = Side("reply", Reply, REPLY_BYTES)


class _Given(msgspec.Struct, tag="generate"):
    """A Generate again, for the names of what its params say."""

    params: dict[str, object]


_given = msgspec.msgpack.Decoder(_Given)


def _refuse_strange(body: bytes) -> None:
    """msgspec passes over a dataclass's unknown fields; the wire does not."""
    strange = sorted(set(_given.decode(body).params) - _PARAMS)
    if strange:
        raise InputError(f"request: params has an unknown field {strange[0]!r}")
