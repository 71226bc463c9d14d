"""What a recipe's settings are, read from its source text: no recipe, and no torch, is imported for
`--help`.
"""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """One setting: dotted name, type, default (source text; None where it is required), comment."""

    name: str
    type: str
    default: str | None
    comment: str


@dataclass(frozen=True)
class Source:
    """A parsed module: its tree, the comments by line as (column, text, alone on its line), where
    names come from.
    """

    path: Path
    tree: ast.Module
    comments: Mapping[int, tuple[int, str, bool]]
    imports: Mapping[str, str]  # local name -> dotted name


def describe(path: Path, name: str = "Config") -> list[Setting]:
    """The settings of the dataclass `name` in the file `path`, those of nested dataclasses with
    dotted names.

    The comment of a setting is the one on its line, with the further-indented lines after it, or
    else the comment lines just above.
    """
    source = parse(path)
    found = _find(source, name)
    return list(_settings(*found)) if found else []


def docstring(path: Path) -> str:
    """The docstring of the module in the file `path`; empty where there is none."""
    return ast.get_docstring(parse(path).tree) or ""


def constant(path: Path, name: str) -> str | None:
    """The text that the module in the file `path` assigns to `name`, or None."""
    for node in parse(path).tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            value = node.value if isinstance(node, ast.Assign) else None
            return str(value.value) if isinstance(value, ast.Constant) else None
    return None


@cache
def parse(path: Path) -> Source:
    """The file `path`, parsed; nothing of it is executed."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    return Source(path, tree, _comments(text), _imports(tree))


def _comments(text: str) -> dict[int, tuple[int, str, bool]]:
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            alone = not token.line[:column].strip()
            comments[row] = (column, token.string.lstrip("# ").rstrip(), alone)
    return comments


def _imports(tree: ast.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
    return names


def _find(source: Source, name: str) -> tuple[Source, ast.ClassDef] | None:
    """The dataclass of that (possibly dotted) name as seen from a module, with the module that
    defines it.
    """
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            marks = {
                ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list
            }
            return (source, node) if "dataclass" in marks else None
    first, dot, rest = name.partition(".")
    if first not in source.imports:
        return None
    module, _, last = f"{source.imports[first]}{dot}{rest}".rpartition(".")
    path = _file(source.path, module) if module else None
    return _find(parse(path), last) if path else None


def _file(near: Path, module: str) -> Path | None:
    """The file of a module of the package that the file `near` belongs to."""
    inside = Path(*module.split("."))
    for folder in near.resolve().parents:
        for path in (folder / inside.with_suffix(".py"), folder / inside / "__init__.py"):
            if path.is_file():
                return path
    return None


def _settings(source: Source, cls: ast.ClassDef, prefix: str = "") -> Iterator[Setting]:
    previous = 0
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = prefix + node.target.id
            kind, bounds = _annotation(node.annotation)
            nested = _find(source, kind.removesuffix(" | None"))
            if nested:
                yield from _nested(*nested, f"{name}.", node.value)
            else:
                default = ast.unparse(_default(node.value)) if node.value else None
                yield Setting(name, kind + bounds, default, _comment(source, node, previous))
        previous = node.end_lineno or previous


def _nested(
    source: Source, cls: ast.ClassDef, prefix: str, value: ast.expr | None
) -> Iterator[Setting]:
    """The settings of a nested dataclass; what its default object `Class(lr=1e-3)` sets is the
    default.
    """
    calls = [n for n in ast.walk(value) if isinstance(n, ast.Call)] if value else []
    given: dict[str, str] = {}
    for call in calls:
        if ast.unparse(call.func).rpartition(".")[2] == cls.name:
            given = {prefix + k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}
            break
    for setting in _settings(source, cls, prefix):
        yield replace(setting, default=given.get(setting.name, setting.default))


def _annotation(node: ast.expr) -> tuple[str, str]:
    """The type as written, and its bounds `Annotated[int, Meta(ge=1)]` as ` >= 1`."""
    if not (isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Annotated")):
        return ast.unparse(node).strip("'\""), ""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    keywords = [k for part in parts[1:] if isinstance(part, ast.Call) for k in part.keywords]
    bounds = [f" {signs[k.arg]} {ast.unparse(k.value)}" for k in keywords if k.arg in signs]
    return ast.unparse(parts[0]), ",".join(bounds)


def _default(node: ast.expr) -> ast.expr:
    """The default itself: what is inside `field(default=...)` or `field(default_factory=lambda:
    ...)`.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "field":
        for keyword in node.keywords:
            if keyword.arg in ("default", "default_factory"):
                inner = keyword.value
                return inner.body if isinstance(inner, ast.Lambda) else inner
    return node


def _comment(source: Source, node: ast.stmt, previous: int) -> str:
    """The comment of the field `node`; `previous` is the last line of what stands before it."""
    first, last = node.lineno, node.end_lineno or node.lineno
    words = [source.comments[row][1] for row in range(first, last + 1) if row in source.comments]
    if words:
        row = last + 1
        while row in source.comments:
            column, text, alone = source.comments[row]
            if not alone or column <= node.col_offset:
                break
            words.append(text)
            row += 1
        return " ".join(words)
    row = first - 1
    while row > previous and row in source.comments and source.comments[row][2]:
        column, text, _ = source.comments[row]
        if column > node.col_offset:  # belongs to the field above
            break
        words.insert(0, text)
        row -= 1
    return " ".join(words)
