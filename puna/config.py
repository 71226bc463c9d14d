"""Settings of a recipe: a frozen dataclass, filled from its defaults, then TOML presets, then
`--a.b=value`.

`load` merges the three and lets msgspec check every value against the dataclass's types; a fault
becomes one line (`InputError`) that names the place, the setting, the value and what was expected.
`dump` writes settings back as TOML, so that the `config.toml` in a run's folder starts the same run
again. `None` is written `"none"`, because TOML has no word for it.
"""

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import tomli_w

from puna.errors import InputError

C = TypeVar("C")
Tree = dict[str, Any]


class Given(NamedTuple):
    """One setting that the user gave, and where, in the words of an error (`a.toml: n = 3`)."""

    name: str
    value: Any
    origin: str


def load(cls: type[C], argv: Sequence[str]) -> C:
    """The settings `cls` with the presets (`*.toml`) and options (`--a.b=value`, `--a.b value`,
    `--flag`) of `argv`.

    Later presets win over earlier ones, options over presets. Raises `InputError` (one line) for a
    file that cannot be read, an unknown name, a value of the wrong type or outside its bounds, and
    settings without a value.
    """
    tree = _defaults(cls)
    origins: dict[str, str] = {}
    for name, value, origin in _given(cls, argv):
        origins[name] = origin
        _put(cls, tree, name, value)
    if missing := list(_missing(cls, tree)):
        what = f"missing setting{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise InputError(f"{what}: give --{missing[0]}=... or a preset")
    config = _convert(cls, tree, origins)
    for name, value in _leaves(_tables(config)):
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{_origin(name, origins)}: expected a number")
    return config


def dump(config: Any) -> str:
    """The settings as TOML text; `load` of it gives an equal object. Paths become text, None
    becomes `"none"`.
    """
    return tomli_w.dumps(_plain(config))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting (dotted name, old value, new value) in which two trees of settings differ,
    or None.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for name in [*after, *before]:
        if name not in before or name not in after or before[name] != after[name]:
            return name, before.get(name, "not set"), after.get(name, "not set")
    return None


def read_toml(path: Path) -> Tree:
    """The tables of a TOML file. Raises `InputError` with `path:line:` for a syntax error."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        line = re.search(r"line (\d+)", place)
        number = line.group(1) if line else str(len(text.splitlines()))
        raise InputError(f"{path}:{number}: {what}") from None


# --- where values come from


def _given(cls: type, argv: Sequence[str]) -> list[Given]:
    """What the presets give, in order, then the options, in order."""
    presets: list[Given] = []
    options: list[Given] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            options.append(_option(cls, word, rest))
        elif word.endswith(".toml"):
            presets += _preset(cls, word, read_toml(Path(word)))
        else:
            wanted = "expected a preset (*.toml) or --name=value"
            raise InputError(f"unexpected argument {word!r}: {wanted}")
    return presets + options


def _preset(cls: type, file: str, tree: Tree) -> list[Given]:
    """The settings in a preset; one that is a mapping is replaced as a whole."""
    given = []
    for name, value in _leaves(tree, whole=lambda name: _is_mapping(_kind(cls, name))):
        _check_name(cls, name, f"{file}: ")
        given.append(Given(name, value, f"{file}: {name} = {value!r}"))
    return given


def _option(cls: type, word: str, rest: list[str]) -> Given:
    """One option; takes its value from `rest` when it is not written with `=`."""
    name, equals, text = word[2:].partition("=")
    name = name.replace("-", "_")
    _check_name(cls, name)
    kind = _kind(cls, name)
    if not equals and kind is bool:
        text = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
    elif not equals:
        if not rest or rest[0].startswith("--"):
            raise InputError(f"--{name}: a value is missing, expected --{name}=...")
        text = rest.pop(0)
    return Given(name, _value(name, text, kind), f"--{name}={text}")


def _value(name: str, text: str, kind: Any) -> Any:
    """Text of the command line as msgspec wants it: lists are written `a,b` or as TOML `["a",
    "b"]`, tables as TOML.
    """
    if (typing.get_origin(kind) or kind) not in (tuple, list) and not _is_mapping(kind):
        return text
    if text.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            raise InputError(f"--{name}={text}: expected a list or table in TOML") from None
    return [part.strip() for part in text.split(",") if part.strip()]


# --- trees of settings


def _kind(cls: type, name: str) -> Any:
    """The type of a dotted name below `cls`, without None and without bounds; None where there is
    no such name.
    """
    kind: Any = cls
    for part in name.split("."):
        if _is_mapping(kind):
            kind = typing.get_args(kind)[1]
            continue
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            return None
        kind = _without_none(hints[part])
    return kind


def _is_mapping(kind: Any) -> bool:
    return typing.get_origin(kind) in (dict, Mapping)


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return kinds[0] if len(kinds) == 1 else kind
    return kind


def _defaults(cls: Any) -> Tree:
    """The defaults of a dataclass as a tree; settings without a default are left out."""
    tree: Tree = {}
    for field in dataclasses.fields(cls):
        kind = _kind(cls, field.name)
        if field.default is not dataclasses.MISSING:
            tree[field.name] = _tables(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            tree[field.name] = _tables(field.default_factory())
        elif dataclasses.is_dataclass(kind):
            tree[field.name] = _defaults(kind)
    return tree


def _tables(value: Any) -> Any:
    """A dataclass object as a tree of its values; anything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _tables(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def _plain(value: Any) -> Any:
    """Settings in the types that TOML knows."""
    value = _tables(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None:
        return "none"
    return str(value) if isinstance(value, Path) else value


def _leaves(
    tree: Mapping[str, Any], prefix: str = "", whole: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, Any]]:
    """Every (dotted name, value) of a tree; an empty table, and what is `whole`, is a leaf."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and not whole(name):
            yield from _leaves(value, f"{name}.", whole)
        else:
            yield name, value


def _put(cls: type, tree: Tree, name: str, value: Any) -> None:
    """Sets one leaf, making the tables on the way (with their defaults where the table is a
    dataclass).
    """
    *tables, last = name.split(".")
    for depth, table in enumerate(tables, 1):
        if not isinstance(tree.get(table), Mapping):
            kind = _kind(cls, ".".join(tables[:depth]))
            tree[table] = _defaults(kind) if dataclasses.is_dataclass(kind) else {}
        tree[table] = dict(tree[table])
        tree = tree[table]
    if value != {} or not dataclasses.is_dataclass(_kind(cls, name)):
        tree[last] = value


def _missing(cls: Any, tree: Tree, prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings that have neither a default nor a value."""
    for field in dataclasses.fields(cls):
        if field.name not in tree:
            yield prefix + field.name
        elif dataclasses.is_dataclass(kind := _kind(cls, field.name)) and isinstance(
            tree[field.name], dict
        ):
            yield from _missing(kind, tree[field.name], f"{prefix}{field.name}.")


# --- checks and words


def _check_name(cls: type, name: str, where: str = "") -> None:
    """Refuses a name that `cls` does not have, with the nearest name that it has."""
    if _kind(cls, name) is not None:
        return
    known = list(_names(cls))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
        k for k in known if k.split(".")[-1] == name.split(".")[-1]
    ]
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"{where}unknown setting {name}{hint}")


def _names(cls: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(cls):
        yield prefix + field.name
        if dataclasses.is_dataclass(kind := _kind(cls, field.name)):
            yield from _names(kind, f"{prefix}{field.name}.")


def _convert(cls: type[C], tree: Tree, origins: Mapping[str, str]) -> C:
    """The tree as an object of `cls`; msgspec's complaint becomes one line."""
    try:
        return msgspec.convert(_nones(cls, tree), cls, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        name = re.sub(r"\[.*?\]", "", path.rstrip("`")).lstrip(".")
        if isinstance(error.__cause__, InputError):
            what = str(error.__cause__)
        given = _origin(name, origins) or cls.__name__
        raise InputError(f"{given}: {_expected(cls, name, what)}") from None


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """Where a setting, the table it is in, or what is in it came from; else its name."""
    for known, origin in reversed(list(origins.items())):
        if f"{known}.".startswith(f"{name}.") or f"{name}.".startswith(f"{known}."):
            return origin
    return name


def _expected(cls: type, name: str, what: str) -> str:
    """msgspec's words in ours; a choice lists what may be chosen."""
    kind = _kind(cls, name) if name else None
    if what.startswith("Invalid enum value") and typing.get_origin(kind) is typing.Literal:
        return "expected one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    words = re.sub(r", got `.*`$", "", what).replace("`", "")
    for ours, theirs in {
        "a number": "float",
        "a whole number": "int",
        "true or false": "bool",
    }.items():
        words = re.sub(rf"\b{theirs}\b", ours, words)
    words = words.replace("object", "a table").replace("array", "a list").replace("str", "text")
    return words[:1].lower() + words[1:]


def _nones(cls: Any, tree: Tree) -> Tree:
    """The tree with the word "none" read as None where the setting admits None."""
    out: Tree = {}
    hints = typing.get_type_hints(cls)
    for name, value in tree.items():
        kind = _without_none(hints[name])
        if (
            isinstance(value, str)
            and value.lower() == "none"
            and type(None) in typing.get_args(hints[name])
        ):
            out[name] = None
        elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
            out[name] = _nones(kind, value)
        else:
            out[name] = value
    return out


def _path(kind: type, value: Any) -> Any:
    """msgspec does not know Path: made from text, with `~` for the home folder."""
    if kind is Path and isinstance(value, str | Path) and value != "":
        return Path(value).expanduser()
    raise TypeError("Expected a path" if kind is Path else f"Expected {kind.__name__}")
