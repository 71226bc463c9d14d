"""Serve: models behind an HTTP interface that OpenAI's clients speak.

    puna serve smollm2
    puna serve tiny=runs/cafe/v2/ppo/checkpoint smollm2 --quant=int8 --port=9000
    puna serve smollm2 --keys=keys.toml --host=0.0.0.0
    puna serve --keys=keys.toml --new-key=alice
    puna serve smollm2 --web --single-user
    puna serve smollm2 --web --origin=https://puna.example

Every model is a path or a name as `puna convert` takes it, with the name it is asked for before
it if that is to be another. It runs in a process of its own and is started again if that dies.
Without keys only this machine is served. --new-key prints a key, the only time that it is shown,
adds its digest to the file of keys, where its quotas can be set, and leaves. SIGTERM or Ctrl-C ends
the server after what runs has been answered. docs/serving.md has the routes and their fields.

--web adds the pages: chat, annotation, review, quality, red team, accounts. They work without a
model too, but for what a model would say. The first start prints a link that makes an admin, who
invites the others. Other machines reach the pages only through a proxy with TLS, at --origin; the
API is closed to them without keys.
"""

import contextlib
import ipaddress
import json
import logging
import os
import re
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from puna.errors import InputError
from puna.web.admission import Admission
from puna.web.app import build
from puna.web.client import HANG_SECONDS
from puna.web.keys import Keys, add_key, read_keys
from puna.web.protocol import Bounds
from puna.web.server import Server, listen
from puna.web.service import Limits, Model, Service
from puna.web.site import start
from puna.web.site.site import Site
from puna.web.supervisor import Supervisor, worker_command

POSITIONAL = "models..."

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WORKER_SECONDS = 5.0  # until a worker is killed at the end, when nothing runs any more

Whole = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set; each with its unit."""

    models: tuple[str, ...] = ()  # paths or names, each as it is or as NAME=PLACE
    adapters: tuple[str, ...] = ()  # NAME=PATH, of one of several models MODEL:NAME=PATH
    quant: Literal["int8", "int4", "bfloat16", "float32", "fp8", "none", ""] = ""  # of the weights
    # a smaller model with the same tokenizer that guesses ahead; answers stay the same
    draft: str = ""
    context: Whole | None = None  # tokens of a prompt and its answer; none: the model's
    threads: Whole | None = (
        None  # of each model's computation; none: all cores, shared by the models
    )
    kv_memory: str = ""  # for keys and values, such as 500M or 2G; empty: as the engine chooses
    rows: Whole = 64  # answers that are written at the same time
    queue: Annotated[int, Meta(ge=0)] = 256  # requests that may wait; more are refused (429)
    host: str = "127.0.0.1"  # address to listen on; another machine's needs keys
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080  # 0: a free one
    keys: Path | None = None  # file of keys; none: no key is needed, from this machine only
    web: bool = False  # serve the pages too
    store: str = "puna.db"  # of the pages: a file for SQLite, or a URL such as postgresql://...
    single_user: bool = False  # the pages for one person on this machine, without a password
    origin: str = ""  # where browsers find the pages, such as https://puna.example
    proxy: tuple[str, ...] = ()  # addresses of proxies whose X-Forwarded-For is believed
    new_key: str = ""  # make a key for this name, print it, and leave
    allow_host: tuple[str, ...] = ()  # further names in a request's Host
    allow_origin: tuple[str, ...] = ()  # web pages that may ask, such as https://example.org
    # a chat format's tags in a message: refused, or spelled so that they are no tags
    tag_policy: Literal["refuse", "escape"] = "refuse"
    max_body: Whole = 1 << 20  # bytes of a request
    connections: Whole = 1024  # that may be open at the same time
    request_seconds: Seconds = 600.0  # from a request's arrival to its last token
    head_seconds: Seconds = 10.0  # for the head of a request to arrive
    body_seconds: Seconds = 30.0  # for the body
    write_seconds: Seconds = 20.0  # until a client that does not read is cut off
    ping_seconds: Seconds = 10.0  # between signs of life in a stream while the prompt is read
    # until a worker that says nothing while requests run is ended and started again
    hang_seconds: Seconds = HANG_SECONDS
    grace: Annotated[float, Meta(ge=0, le=86400)] = 30.0  # seconds for what runs, at the end


def main(config: Config) -> None:
    """Serve until told to end, or make a key. InputError: a setting that cannot be followed."""
    if config.new_key:
        if config.keys is None:
            raise InputError("new_key: expected --keys=FILE, the file to add it to")
        print(add_key(config.keys, config.new_key))
        return
    service = service_of(config)
    log_to_stderr()
    try:
        sock = listen(config.host, config.port)
    except OSError as error:
        reason = f"cannot listen: {error.strerror or error}"
        raise InputError(f"host, port: {config.host}:{config.port}: {reason}") from None
    with contextlib.ExitStack() as kept:
        kept.callback(sock.close)
        site = None
        if config.web:
            given = (config.store, config.origin, config.single_user, config.proxy)
            site = kept.enter_context(start.site_with(service, *given))
        run(config, service, site, sock)


def run(config: Config, service: Service, site: Site | None, sock: socket.socket) -> None:
    """Serve on a socket until told to end."""
    port = sock.getsockname()[1]
    loading = f"; loading {', '.join(service.models)}" if service.models else ""
    note(f"listening on {address(config.host, port)}/v1{loading}")
    if site is not None:
        note(start.first_link(site, address(reachable(config.host), port)))
    words = "ready; Ctrl-C ends it"
    if service.models and (config.keys or not service.keys):
        example = curl(config.host, port, next(iter(service.models)), bool(service.keys))
        words = f"ready; try it, Ctrl-C ends it:\n  {example}"
    server = Server(
        build(service, config.allow_origin, site),
        service,
        Bounds(config.connections, config.head_seconds, config.body_seconds, config.write_seconds),
        config.grace,
        greet=lambda: note(words),
        stay=site is not None,
    )
    server.run(sockets=[sock])
    if server.abandoned:
        raise InputError("; ".join(service.given_up))
    note("stopped")


def address(host: str, port: int) -> str:
    """The URL of a host and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl(host: str, port: int, model: str, closed: bool) -> str:
    """A command that asks a model something; `closed`: with the place of a key."""
    said = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    words = ["curl", f"{address(reachable(host), port)}/v1/chat/completions"]
    words += ["-H", '"authorization: Bearer $KEY"'] if closed else []
    words += ["-H", "'content-type: application/json'", "-d", shlex.quote(json.dumps(said))]
    return " ".join(words)


def reachable(host: str) -> str:
    """An address by which this machine reaches itself."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def service_of(config: Config) -> Service:
    """The service with its models, keys and limits. InputError: settings that cannot go."""
    keys = read_keys(config.keys) if config.keys else Keys()
    local = is_loopback(config.host)
    if config.web:
        start.check_origin(config.host, local, config.origin, config.single_user)
        if not keys and start.is_open(local, config.origin):
            keys = Keys(closed=True)
    elif unread := [name for name in ("single_user", "origin", "proxy") if getattr(config, name)]:
        raise InputError(f"{unread[0]}: is for the pages, expected --web too")
    if not keys and not local:
        raise InputError(
            f"host: {config.host} can be reached by others, which needs --keys=FILE "
            "(puna serve --keys=FILE --new-key=NAME makes one)"
        )
    own = {"localhost", "127.0.0.1", "[::1]"} if local else set()
    if config.origin:
        own.add(start.host_of(config.origin))
    hosts = own | {name.lower() for name in config.allow_host}
    return Service(
        models=models_of(config),
        keys=keys,
        limits=Limits(
            config.max_body, config.request_seconds, config.ping_seconds, config.tag_policy
        ),
        admission=Admission(config.rows, config.queue),
        hosts=frozenset(hosts),
    )


def models_of(config: Config) -> dict[str, Model]:
    """The models by name, each with the process that is to run it. InputError: names that clash."""
    if not config.models and not config.web:
        raise InputError("models: expected at least one, such as puna serve smollm2")
    places: dict[str, str] = {}
    for given in config.models:
        name, equals, place = given.partition("=")
        if not equals:
            name, place = name_of(given), given
        if not NAME.fullmatch(name):
            raise InputError(f"models: {name!r} is no name; give one as NAME={place}")
        if name in places:
            raise InputError(f"models: two are called {name}; give one as NAME={place}")
        places[name] = place
    adapters = adapters_of(config.adapters, list(places))
    models = {}
    for name, place in places.items():
        options = worker_options(config, adapters[name])
        # The worker's own grace counts where SIGTERM reaches all processes, as under systemd.
        source = Supervisor(
            name,
            worker_command(place, options),
            grace=config.grace,
            ending=WORKER_SECONDS,
            log=note,
        )
        models[name] = Model(name, source, config.hang_seconds)
    return models


def name_of(place: str) -> str:
    """What a model is called by default: the last part of its place that says something."""
    parts = [part for part in place.removeprefix("hf:").split("/") if part not in ("", ".", "..")]
    if len(parts) > 1 and parts[-1] == "checkpoint":
        parts.pop()
    return re.sub(r"\.(gguf|pth|safetensors)$", "", parts[-1]) if parts else place


def adapters_of(given: Sequence[str], models: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=PATH` of every model's adapters. InputError: a name that is none, or a model."""
    found: dict[str, list[str]] = {name: [] for name in models}
    for text in given:
        name, equals, path = text.partition("=")
        model, colon, adapter = name.partition(":")
        if not colon:
            model, adapter = models[0], name
        if not equals or not path or not NAME.fullmatch(adapter):
            raise InputError(f"adapters: {text!r}, expected NAME=PATH or MODEL:NAME=PATH")
        if model not in found or (not colon and len(models) > 1):
            expected = f"expected MODEL:NAME=PATH with a model of {', '.join(models)}"
            raise InputError(f"adapters: {text!r}, {expected}")
        if any(other.startswith(f"{adapter}=") for other in found[model]):
            raise InputError(f"adapters: {model} has two that are called {adapter}")
        found[model].append(f"{adapter}={path}")
    return found


def worker_options(config: Config, adapters: Sequence[str]) -> list[str]:
    """The options of a worker process."""
    options = ["--rows", str(config.rows)]
    for adapter in adapters:
        options += ["--adapter", adapter]
    for name, value in (
        ("--quant", config.quant),
        ("--draft", config.draft),
        ("--context", config.context),
        ("--threads", config.threads or share_of_cores(len(config.models))),
        ("--kv-memory", config.kv_memory),
    ):
        if value:
            options += [name, str(value)]
    return options


def share_of_cores(models: int) -> int | None:
    """The threads of each of several models, so that together they take no more than there are.

    None for a single one: the kernels know the machine best.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return None if models == 1 else max(1, (allowed or 1) // models)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def log_to_stderr() -> None:
    """One line for each request, on stderr."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name, level in (("puna.web", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [stream], False
        logger.setLevel(level)


def note(text: str) -> None:
    """A line of the server's own, on stderr."""
    print(text, file=sys.stderr, flush=True)
