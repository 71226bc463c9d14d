"""The rules of the house: walls between rooms, rooms without torch, sizes, banned calls, names."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# room or top-level module -> what of ours it may import
WALLS = {
    "errors": set(),
    "text": {"errors"},
    "numerics": {"errors"},
    "evaluation": {"text", "errors"},
    "data": {"text", "errors"},
    "kernels": {"errors"},
    "model": {"text", "errors", "kernels"},
    "engine": {"model", "kernels", "numerics", "text", "errors"},
    "recipes": {
        *("config", "run", "lock", "console", "text", "data", "model"),
        *("numerics", "engine", "evaluation", "store", "errors"),
    },
    "store": {"text", "errors"},
    "web": {"text", "store", "evaluation", "errors", "config", "console"},
    "allocator": {"errors"},
    "describe": {"errors"},
    "lock": {"errors"},
    "costs": {"errors"},
    "config": {"errors"},
    "console": {"errors"},
    "run": {"allocator", "config", "console", "costs", "lock", "errors"},
    "cli": {"config", "console", "describe", "errors"},
    "__main__": {"cli"},
    "__init__": set(),
}
WITH_TORCH = {"numerics", "kernels", "model", "engine", "recipes"}  # rooms that may import torch
WITH_TORCH_FILES = {"puna/data/shards.py", "puna/data/batches.py"}
WITHOUT_TORCH_FILES = {f"puna/engine/{name}.py" for name in ("sequence", "blocks", "scheduler")}
FILE_LINES, FUNCTION_LINES, MAIN_LINES = 400, 60, 100
VAGUE_FILES = {"utils.py", "util.py", "common.py", "helpers.py", "manager.py", "misc.py"}
VAGUE_VERBS = ("get_", "do_", "process_", "handle_")
BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system", "os.popen"}
# written in two parts, so that this file does not hold them
PRIVATE_PATHS = tuple("/" + word for word in ("work/", "root/", "tmp/spec", "home/"))
TEXT_FILES = ("*.py", "*.md", "*.toml", "*.txt", "*.j2", "*.json", "Makefile", "run")
SKIPPED = {"runs", "build", "dist", "node_modules"}

Faults = Iterator[str]


def modules(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """(path below the root, room, tree) of every module of the package."""
    for path in sorted((root / "puna").rglob("*.py")):
        inside = path.relative_to(root / "puna")
        room = inside.parts[0].removesuffix(".py")
        yield path.relative_to(root).as_posix(), room, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, in functions too; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "puna":  # from puna import config
                yield from ((node.lineno, f"puna.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def walls(root: Path) -> Faults:
    """Imports that go against the plan; rooms that the plan does not know."""
    for path, room, tree in modules(root):
        if room not in WALLS:
            yield f"{path}: room {room} is not in the plan"
            continue
        for line, name in imported(tree):
            ours = name.split(".")
            if name.startswith("."):
                yield f"{path}:{line}: relative import {name}"
            elif ours[0] == "puna" and len(ours) > 1 and ours[1] in WALLS:
                if ours[1] != room and ours[1] not in WALLS[room]:
                    yield f"{path}:{line}: {room} may not import {ours[1]}"
            elif room == "recipes" and name.startswith("puna.web"):
                yield f"{path}:{line}: recipes may not import web"


def torch_free(root: Path) -> Faults:
    """Imports of torch where there may be none."""
    for path, room, tree in modules(root):
        free = path in WITHOUT_TORCH_FILES or room not in WITH_TORCH
        if not free or path in WITH_TORCH_FILES:
            continue
        for line, name in imported(tree):
            if name.split(".")[0] in ("torch", "transformers"):
                yield f"{path}:{line}: {room} may not import {name}"


def sizes(root: Path) -> Faults:
    """Files and functions that are too long."""
    for path, room, tree in modules(root):
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{path}: {lines} lines, at most {FILE_LINES}"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                limit = MAIN_LINES if room == "recipes" and node.name == "main" else FUNCTION_LINES
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > limit:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {limit}"


def names(root: Path) -> Faults:
    """Files and functions whose name says nothing."""
    for path, _, tree in modules(root):
        if Path(path).name in VAGUE_FILES:
            yield f"{path}: a file named for nothing"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.lstrip("_").startswith(VAGUE_VERBS):
                yield f"{path}:{node.lineno}: {node.name} says nothing"


def docstrings(root: Path) -> Faults:
    """What is public and has no docstring; a recipe's own explains its `Config` and `main`."""
    for path, room, tree in modules(root):
        if not ast.get_docstring(tree):
            yield f"{path}: no docstring"
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            explained = room == "recipes" and node.name in ("Config", "main")
            if not explained and not ast.get_docstring(node):
                yield f"{path}:{node.lineno}: {node.name} has no docstring"


def banned(root: Path) -> Faults:
    """Calls that run what they read, or a shell."""
    for path, _, tree in modules(root):
        for line, name in imported(tree):
            if name.split(".")[0] in BANNED_MODULES:
                yield f"{path}:{line}: import {name}"
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in BANNED_CALLS:
                yield f"{path}:{node.lineno}: {ast.unparse(node.func)}"
            for keyword in node.keywords:
                unsafe = keyword.arg in ("shell", "allow_pickle")
                if unsafe and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"{path}:{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"


def private_paths(root: Path) -> Faults:
    """Paths of somebody's machine in any text file."""
    for path in sorted({p for pattern in TEXT_FILES for p in root.rglob(pattern)}):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") and part != ".ci" for part in inside.parts)
        if hidden or SKIPPED & set(inside.parts) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield from (
                f"{inside.as_posix()}:{number}: {word}" for word in PRIVATE_PATHS if word in line
            )


CHECKS = [walls, torch_free, sizes, names, docstrings, banned, private_paths]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps_its_rules(check: Callable[[Path], Faults]) -> None:
    assert list(check(ROOT)) == []


def test_importing_the_rooms_without_torch_does_not_load_torch() -> None:
    found = [
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path, room, _ in modules(ROOT)
        if (room not in WITH_TORCH and room != "__main__" and path not in WITH_TORCH_FILES)
        or path in WITHOUT_TORCH_FILES
    ]
    lines = "\n".join(
        f"import {name}\nassert 'torch' not in sys.modules, {name!r}" for name in found
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys\n{lines}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(found) > 10


BREACHES: list[tuple[Callable[[Path], Faults], str, str, str]] = [
    (walls, "text/a.py", "from puna.model import heads\n", "text may not import model"),
    (walls, "evaluation/a.py", "from puna import engine\n", "evaluation may not import engine"),
    (walls, "model/a.py", "def f():\n    import puna.recipes.sft\n", "may not import recipes"),
    (walls, "text/a.py", "from .dialog import Dialog\n", "relative import"),
    (walls, "attic/a.py", "", "room attic is not in the plan"),
    (torch_free, "text/a.py", "import torch.nn\n", "text may not import torch"),
    (torch_free, "engine/blocks.py", "import torch\n", "engine may not import torch"),
    (torch_free, "cli.py", "def f():\n    from torch import nn\n", "cli may not import torch"),
    (torch_free, "data/corpus.py", "import torch\n", "data may not import torch"),
    (sizes, "text/a.py", "x = 1\n" * 401, "401 lines"),
    (sizes, "text/a.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
    (sizes, "text/a.py", "def main():\n" + "    x = 1\n" * 60, "main has 61 lines"),
    (sizes, "recipes/a.py", "def main():\n" + "    x = 1\n" * 100, "main has 101 lines"),
    (names, "text/utils.py", "", "a file named for nothing"),
    (names, "text/a.py", "class A:\n    def get_x(self): ...\n", "get_x says nothing"),
    (docstrings, "text/a.py", '"""A."""\ndef f(): ...\n', "f has no docstring"),
    (docstrings, "text/a.py", "x = 1\n", "a.py: no docstring"),
    (banned, "text/a.py", "import pickle\n", "import pickle"),
    (banned, "model/a.py", "import torch\ntorch.load('x')\n", "torch.load"),
    (banned, "text/a.py", "eval('1')\n", "eval"),
    (banned, "text/a.py", "exec('1')\n", "exec"),
    (banned, "text/a.py", "import yaml\nyaml.load('1')\n", "yaml.load"),
    (banned, "text/a.py", "run('ls', shell=True)\n", "shell=True"),
    (banned, "data/a.py", "np.load('x', allow_pickle=True)\n", "allow_pickle=True"),
    (private_paths, "text/a.py", f"x = '{PRIVATE_PATHS[0]}main'\n", PRIVATE_PATHS[0]),
]


@pytest.mark.parametrize(("check", "path", "text", "fault"), BREACHES)
def test_a_planted_breach_is_found(
    tmp_path: Path, check: Callable[[Path], Faults], path: str, text: str, fault: str
) -> None:
    file = tmp_path / "puna" / path
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    found = list(check(tmp_path))
    assert len(found) == 1
    assert fault in found[0] and f"puna/{path}" in found[0]


def test_what_is_allowed_is_not_called_a_breach(tmp_path: Path) -> None:
    for path, text in {
        "model/a.py": '"""A."""\nimport torch\nfrom puna.text.dialog import Dialog\n\nm.eval()\n',
        "data/shards.py": '"""A."""\nimport torch\n',
        "recipes/a.py": '"""A."""\ndef main():\n' + "    x = 1\n" * 99,
        "text/a.py": '"""A."""\ndef f():\n    """F."""\n' + "    x = 1\n" * 58,
    }.items():
        (tmp_path / "puna" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "puna" / path).write_text(text, encoding="utf-8")
    assert [fault for check in CHECKS for fault in check(tmp_path)] == []
