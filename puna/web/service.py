"""What all requests share: the models and their workers, keys, quotas, the queue, the figures."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from puna.text.template import TagPolicy
from puna.web.admission import Admission
from puna.web.client import HANG_SECONDS, Ready, Source, Worker
from puna.web.failures import ApiError, unavailable
from puna.web.keys import Key, Keys
from puna.web.metrics import Metrics
from puna.web.quotas import Quotas


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how messages with a chat format's tags are treated."""

    body: int = 1 << 20  # bytes
    request_seconds: float = 600.0  # from the queue to the last token
    ping_seconds: float = 10.0  # between two signs of life of a stream that says nothing
    tags: TagPolicy = "refuse"


class Model:
    """One model, its worker, and its adapters."""

    def __init__(self, name: str, source: Source, hang: float = HANG_SECONDS) -> None:
        """A model under a name; `source` leads to its worker, which may be silent for `hang` s."""
        self.name, self.worker = name, Worker(source, hang)

    @property
    def names(self) -> list[str]:
        """What a request can ask for: the model, and each of its adapters."""
        ready = self.worker.ready
        adapters = ready.hello.adapters if ready else []
        return [self.name, *(f"{self.name}:{adapter}" for adapter in adapters)]

    @property
    def ready(self) -> Ready:
        """The worker's hello and its tokenizer. ApiError 503: it loads, or is gone."""
        found = self.worker.ready
        if found is None:
            raise unavailable(f"{self.name}: the model is not loaded", 2, "loading")
        return found

    @property
    def fingerprint(self) -> str:
        """Equal as long as the same program has the same model in the same form."""
        hello = self.ready.hello
        parts = (hello.version, hello.model, hello.format, hello.kind, str(hello.context))
        digest = hashlib.sha256("\n".join((*parts, self.ready.tokenizer.sha256)).encode())
        return f"fp_{digest.hexdigest()[:12]}"


@dataclass
class Service:
    """Everything that one server holds."""

    models: dict[str, Model]
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    admission: Admission = field(default_factory=lambda: Admission(64, 256))
    hosts: frozenset[str] = frozenset()  # names in `Host` that are answered; empty: all
    quotas: Quotas = field(default_factory=Quotas)
    metrics: Metrics = field(default_factory=Metrics)
    stopping: bool = False
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def find(self, name: str, key: Key) -> tuple[Model, str | None]:
        """The model and adapter of a name. ApiError: 404 unknown, 403 not for this key."""
        base, colon, adapter = name.partition(":")
        model = self.models.get(base)
        if model is None:
            raise _no_model()
        if not key.allows(name):
            raise ApiError(403, "model: this key may not ask it", "model", "model_not_allowed")
        if not colon:
            return model, None
        if adapter not in model.ready.hello.adapters:
            raise _no_model()
        return model, adapter

    def listed(self, key: Key) -> Iterator[tuple[str, Model]]:
        """Every name that the key may ask for."""
        for model in self.models.values():
            yield from ((name, model) for name in model.names if key.allows(name))

    def start(self) -> None:
        """Begin to hold the workers' connections."""
        for model in self.models.values():
            self._tasks.append(asyncio.create_task(model.worker.run()))

    def refuse_new(self) -> None:
        """The server is going down: who waits is sent away; what runs goes on."""
        self.stopping = True
        self.admission.close(unavailable("the server is stopping", code="stopping"))

    def end_running(self) -> None:
        """The grace is over: what still runs ends with an error."""
        self.refuse_new()
        for model in self.models.values():
            model.worker.stop()

    async def stop(self) -> None:
        """End everything, and let go of the workers."""
        self.end_running()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(model.worker.close() for model in self.models.values()))

    @property
    def given_up(self) -> Sequence[str]:
        """Why there will be no worker, of each model without one."""
        reasons = (model.worker.given_up for model in self.models.values())
        return [reason for reason in reasons if reason]


def _no_model() -> ApiError:
    return ApiError(404, "model: there is none of this name", "model", "model_not_found")
