"""From which address a request comes, where a proxy stands before the server.

`X-Forwarded-For` is what anybody can send; it counts only from a proxy that was named.
"""

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from starlette.requests import Request

from puna.errors import InputError
from puna.web.site.site import Site


def networks(given: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks. InputError: one that is none."""
    try:
        return tuple(ipaddress.ip_network(text) for text in given)
    except ValueError as error:
        raise InputError(f"proxy: {error}, such as 127.0.0.1 or 10.0.0.0/8") from None


def address_of(request: Request, site: Site) -> str:
    """The address of who asks: the last in the chain that is no proxy of ours."""
    address = request.client.host if request.client else ""
    lines = ",".join(request.headers.getlist("x-forwarded-for"))
    for before in reversed([part.strip() for part in lines.split(",")]):
        if not _ours(address, site) or not _is_address(before):
            break
        address = before
    return address


def _ours(address: str, site: Site) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in site.proxies)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
