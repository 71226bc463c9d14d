"""How much a counted repetition stands for, before anything compiles it.

A grammar's automaton has a state for each character that must come: `(?:x{1000}){1000}` is short
and took eight seconds. So what the counts multiply to is bounded.
"""

import re
from collections.abc import Mapping
from typing import Any

from puna.web.failures import refused

EXPANDED = 20_000  # characters that a pattern's or schema's counts stand for

_COUNT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_LARGEST = 10**9
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def expanded(pattern: str) -> int:
    """Characters of a regular expression when every counted repetition is written out.

    An upper bound; what is no regular expression has some number too.
    """
    sums, last = [0], 0  # of every group that is open; what the last item stands for
    place = 0
    while place < len(pattern):
        sign, step = pattern[place], 1
        count = _COUNT.match(pattern, place) if sign == "{" else None
        if count:
            numbers = [int(number[:10]) for number in count.groups() if number]
            times, step = max([1, *numbers]), len(count.group())
            sums[-1] += last * times - last
            last *= times
        elif sign == "(":
            sums.append(0)
            last = 0
        elif sign == ")":
            last = sums.pop() if len(sums) > 1 else 0
            sums[-1] += last
        else:
            step = _item(pattern, place)
            last = 1
            sums[-1] += 1
        place += step
        if max(sums) > _LARGEST:
            return _LARGEST
    return sum(sums)


def _item(pattern: str, place: int) -> int:
    """How many characters of the pattern are one character, or a class of them."""
    if pattern[place] == "\\":
        return 2
    if pattern[place] != "[":
        return 1
    end = place + 1
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end - place + 1


def check_pattern(pattern: str, param: str) -> None:
    """ApiError 400: the pattern's counts stand for too much."""
    if expanded(pattern) > EXPANDED:
        raise refused(param, f"its counts stand for more than {EXPANDED} characters")


def check_counts(schema: Mapping[str, Any], param: str) -> None:
    """ApiError 400: the counts of a JSON schema, multiplied where they are nested, are too much."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, times = waiting.pop()
        if isinstance(value, list):
            waiting += [(inside, times) for inside in value]
        elif isinstance(value, dict):
            counts = [value[name] for name in _LENGTHS if _is_number(value.get(name))]
            times *= int(max([1, *counts]))
            if isinstance(value.get("pattern"), str):
                times *= expanded(value["pattern"])
            if times > EXPANDED:
                raise refused(param, f"its counts stand for more than {EXPANDED} characters")
            waiting += [(inside, times) for inside in value.values()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
