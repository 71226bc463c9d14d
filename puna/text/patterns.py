"""How much a counted repetition stands for, before anything compiles it.

A grammar's automaton has a state for each character that must come: `(?:x{1000}){1000}` is short
and took eight seconds. So what the counts multiply to is bounded, for the server's clients and for
every other caller of the engine.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from puna.errors import InputError

EXPANDED = 20_000  # characters that the counts of a pattern, a schema or rules stand for

_COUNT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_LARK_COUNT = re.compile(r"\s*(?:\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?)")
_DEFINED = re.compile(r"^[ \t]*[?!]?(\w+)(?:\.-?\d+)?(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)+)/")
_NAME = re.compile(r"\w+")
_COMMENT = re.compile(r"(?://|#)[^\n]*")
_LARGEST = 10**9
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")

# "(" and ")"; a count as a negative number; what one item stands for
Part = str | int


def refuse_counts(kind: str, size: int) -> None:
    """InputError: the counts of a grammar of this kind stand for too many characters."""
    if size > EXPANDED:
        raise InputError(f"{kind}: its counts stand for more than {EXPANDED} characters")


def expanded(pattern: str) -> int:
    """Characters of a regular expression when every counted repetition is written out.

    An upper bound; what is no regular expression has some number too.
    """
    return _total(_pattern_parts(pattern))


def expanded_schema(schema: Any) -> int:
    """The largest product of the counts of a JSON schema that are inside one another."""
    most, waiting = 1, [(schema, 1)]
    while waiting:
        value, times = waiting.pop()
        if isinstance(value, list):
            waiting += [(inside, times) for inside in value]
        elif isinstance(value, Mapping):
            counts = [value[name] for name in _LENGTHS if _is_number(value.get(name))]
            times *= int(min(max([1, *counts]), _LARGEST))
            if isinstance(value.get("pattern"), str):
                times *= max(1, expanded(value["pattern"]))
            most, times = max(most, times), min(times, _LARGEST)
            waiting += [(inside, times) for inside in value.values()]
    return most


def expanded_lark(rules: str) -> int:
    """The same of rules in Lark's form: the largest of them, with what they refer to in it.

    A rule that refers to itself counts as one character there.
    """
    heads = list(_DEFINED.finditer(rules))
    ends = [head.start() for head in heads[1:]] + [len(rules)]
    bodies = {head[1]: rules[head.end() : end] for head, end in zip(heads, ends, strict=True)}
    sizes: dict[str, int] = dict.fromkeys(bodies, 1)
    for _ in range(min(len(bodies), 64) + 1):  # references lead that deep at most, or in a circle
        before = dict(sizes)
        for name, body in bodies.items():
            others = {**sizes, name: 1}
            sizes[name] = _total(_lark_parts(body, others))
        if sizes == before or max(sizes.values()) > EXPANDED:
            break
    rest = rules[: heads[0].start()] if heads else rules
    return max([_total(_lark_parts(rest, sizes)), *sizes.values()])


def _total(parts: Iterator[Part]) -> int:
    sums, last = [0], 0  # of every group that is open; what the last item stands for
    for part in parts:
        if part == "(":
            sums.append(0)
            last = 0
        elif part == ")":
            last = sums.pop() if len(sums) > 1 else 0
            sums[-1] += last
        elif isinstance(part, int) and part < 0:
            sums[-1] += last * -part - last
            last *= -part
        elif isinstance(part, int):
            sums[-1] += part
            last = part
        if max(sums) > _LARGEST:
            return _LARGEST
    return sum(sums)


def _times(count: re.Match[str]) -> int:
    """A count as a negative number."""
    return -max([1, *(int(number[:10]) for number in count.groups() if number)])


def _pattern_parts(pattern: str) -> Iterator[Part]:
    place = 0
    while place < len(pattern):
        sign, step = pattern[place], 1
        count = _COUNT.match(pattern, place) if sign == "{" else None
        if count:
            yield _times(count)
            step = len(count.group())
        elif sign in "()":
            yield sign
        else:
            step = _item(pattern, place)
            yield 1
        place += step


def _lark_parts(body: str, sizes: Mapping[str, int]) -> Iterator[Part]:
    place = 0
    while place < len(body):
        sign = body[place]
        if found := _TEXT.match(body, place):
            yield max(1, len(found.group()) - 2)
        elif found := _REGEX.match(body, place):
            yield max(1, expanded(found[1]))
        elif found := _COMMENT.match(body, place):
            pass
        elif found := _LARK_COUNT.match(body, place):
            yield _times(found)
        elif found := _NAME.match(body, place):
            if found.group() == "json" and body[place - 1 : place] == "%":
                yield _json_size(body[found.end() :])
            else:
                yield max(1, sizes.get(found.group(), 1))
        elif sign in "([":
            yield "("
        elif sign in ")]":
            yield ")"
        place = found.end() if found else place + 1


def _json_size(text: str) -> int:
    """What the JSON schema at the beginning of a text stands for."""
    try:
        return expanded_schema(json.JSONDecoder().raw_decode(text.lstrip())[0])
    except (ValueError, RecursionError):  # which the compiler refuses
        return 1


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
