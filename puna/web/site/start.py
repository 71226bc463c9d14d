"""How the pages begin: where browsers find them, the store, the first link.

Browsers reach the pages on this machine, or at an https origin: what is said and judged, and the
passwords, go through no network in the clear. TLS is a proxy's; `origin` says what it is called.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from puna.errors import InputError
from puna.store import people
from puna.store.faults import Unavailable
from puna.store.store import open_store
from puna.web.guard import HOST
from puna.web.service import Service
from puna.web.site.door import LOOPBACK
from puna.web.site.proxies import networks
from puna.web.site.site import Site


def check_origin(host: str, local: bool, origin: str, single_user: bool) -> None:
    """InputError: browsers would reach the pages over a network without TLS, or not at all."""
    if not origin:
        if not local:
            raise InputError(
                f"host: {host} can be reached by others, and --web then needs "
                "--origin=https://NAME, where a proxy with TLS hands on to this server"
            )
        return
    parts = urlsplit(origin)
    name = host_of(origin)
    whole = f"{parts.scheme}://{parts.netloc}" == origin and origin == origin.lower()
    whole = whole and HOST.fullmatch(parts.netloc) is not None
    if not whole or not (parts.scheme == "https" or (parts.scheme == "http" and name in LOOPBACK)):
        raise InputError(
            f"origin: {origin!r}, expected https://NAME or http://localhost:PORT, in small letters "
            "and without a / at its end"
        )
    if single_user and (name not in LOOPBACK or not local):
        raise InputError("single_user: only on this machine, expected no other host or origin")


def is_open(local: bool, origin: str) -> bool:
    """Whether others than those on this machine reach the server, itself or through a proxy."""
    return not local or bool(origin and host_of(origin) not in LOOPBACK)


def host_of(origin: str) -> str:
    """The name in an origin, without its port."""
    return re.sub(r":[0-9]+$", "", urlsplit(origin).netloc)


@contextlib.contextmanager
def site_with(
    service: Service, place: str, origin: str, single_user: bool, proxies: Sequence[str]
) -> Iterator[Site]:
    """The pages of a service, with their store open. InputError: the store cannot be used."""
    believed = networks(proxies)
    store = open_store(place)
    try:
        site = Site(service, store, origin, single_user, believed)
        site.hashing.passwords.prepare()
        yield site
    finally:
        store.close()


def first_link(site: Site, base: str) -> str:
    """What the operator is told at the start: where the pages are, and a link if one is needed."""
    try:
        with site.store.write() as session:
            make = people.single_user if site.single_user else people.set_up
            token = make(session)
    except Unavailable as error:
        raise InputError(f"store: {error}") from None
    base = site.origin or base
    if not token:
        return f"pages: {base}/"
    who = "open this link" if site.single_user else "no admin yet; become one by this link"
    return f"pages: {base}/; {who} (once, within 24 hours):\n  {base}/welcome#{token}"
