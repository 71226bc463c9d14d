"""Personal data in text: e-mail, telephone, IBAN, payment cards, street and IP addresses.

The paper removed sites known to hold much personal information on private individuals (section
2.1 and 4.1); these patterns tell how much a text holds. They are made for English and common
international forms; a match that carries a check sum (cards, IBAN) must pass it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Hit:
    """One piece of personal data: its kind and its place `text[start:end]`."""

    kind: str
    start: int
    end: int


_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Square|Sq"
    r"|Terrace|Way|Row|Alley|Crescent|Parkway|Pkwy|Highway|Hwy)"
)
# The order decides where two kinds overlap: a card is not a telephone number as well.
_PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(
        r"(?<![\w.+%-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
    ),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"),
    "ip": re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"
    ),
    "phone": re.compile(
        r"(?<![\w.$-])(?:"
        r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +44 20 7946 0123
        r"|(?:1[ .-])?\(\d{3}\) ?\d{3}[ .-]?\d{4}"  # (555) 010-4477
        r"|(?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}"  # 555-010-4477
        r"|\d{3}-\d{4}"  # 555-0144
        r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}"  # 020 7946 0123
        r")(?![\w-]|\.\d)"
    ),
    "address": re.compile(
        r"\b\d{1,5}[A-Za-z]? (?:(?:North|South|East|West|[NSEW]\.?) )?"
        r"(?:[A-Z][a-z'\u2019]{1,20} ){1,3}" + _STREET + r"\b"
    ),
}


def find_personal_data(text: str) -> list[Hit]:
    """Every piece of personal data in the text, in order of its place; pieces do not overlap."""
    hits: list[Hit] = []
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            if not _valid(kind, match.group()):
                continue
            if all(end <= hit.start or start >= hit.end for hit in hits):
                hits.append(Hit(kind, start, end))
    return sorted(hits, key=lambda hit: hit.start)


def scrubbed(text: str) -> tuple[str, Counter[str]]:
    """The text with each piece of personal data replaced by its kind, as `[email]`; how many."""
    parts, start = [], 0
    hits = find_personal_data(text)
    for hit in hits:
        parts += [text[start : hit.start], f"[{hit.kind}]"]
        start = hit.end
    return "".join([*parts, text[start:]]), Counter(hit.kind for hit in hits)


def _valid(kind: str, found: str) -> bool:
    match kind:
        case "card":
            return luhn(found)
        case "iban":
            return iban(found)
        case "ip":
            return _is_ip(found)
        case "phone":
            return 7 <= sum(c.isdigit() for c in found) <= 15  # E.164: at most 15 digits
        case _:
            return True


def luhn(number: str) -> bool:
    """Whether the digits of a 13 to 19 digit payment card number pass the Luhn check (ISO 7812)."""
    digits = [int(c) for c in number if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    return sum(_luhn_terms(digits)) % 10 == 0


def _luhn_terms(digits: list[int]) -> Iterator[int]:
    """From the right, every second digit is doubled and 9 taken off what exceeds 9."""
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        yield doubled - 9 if doubled > 9 else doubled


def iban(number: str) -> bool:
    """Whether an account number of 15 to 34 characters passes the IBAN check (ISO 13616)."""
    plain = number.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_ip(found: str) -> bool:
    if ":" in found and len(found) < 7:
        return False  # "10:30:15" is no address, nor is "::"
    try:
        ip_address(found)
    except ValueError:
        return False
    return True
