"""The pages agree with the code: commands, settings, files, the paper's parts, versions, links."""

import ast
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import puna
from puna import cli
from puna.describe import constant, describe, docstring

ROOT = Path(__file__).resolve().parent.parent
README, STRUCTURE = ROOT / "README.md", ROOT / "docs/structure.md"
PAPER, CHANGELOG = ROOT / "docs/paper.md", ROOT / "CHANGELOG.md"
PAGES = [README, CHANGELOG, *sorted((ROOT / "docs").glob("*.md"))]

SECTIONS = (
    "1 2 2.1 2.2 2.2.1 2.3 3 3.1 3.2 3.2.1 3.2.2 3.2.3 3.3 3.4 3.4.1 3.4.2 "
    "4 4.1 4.2 4.2.1 4.2.2 4.2.3 4.2.4 4.3 4.4 5 5.1 5.2 5.3 6 7 A A.1 A.1.1 A.2 A.2.1 A.2.2 "
    "A.3 A.3.1 A.3.2 A.3.3 A.3.4 A.3.5 A.3.6 A.3.7 "
    "A.4 A.4.1 A.4.2 A.4.3 A.4.4 A.4.5 A.4.6 A.4.7 A.4.8 A.5 A.5.1 A.5.2 A.5.3 A.5.4 A.6 A.7"
).split()
TABLES, FIGURES = range(1, 53), range(1, 34)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def first_cells(page: str) -> list[str]:
    """The first cell of every row of every table, without its back-ticks."""
    rows = (line for line in page.splitlines() if line.startswith("| "))
    return [row.split("|")[1].strip().strip("`") for row in rows]


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of that language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def examples(page: str) -> Iterator[list[str]]:
    """The words after `puna` of every line that calls it."""
    for line in page.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(?:\.venv/bin/)?puna [a-z]", line) and "..." not in line:
            yield shlex.split(line.strip().split("   ")[0])[1:]


def settings(command: str) -> set[str]:
    """The dotted names of a command's settings."""
    return {setting.name for setting in describe(cli.recipe_file(command))}


def faults(words: list[str]) -> Iterator[str]:
    """What is wrong with a call of `puna`, by its words alone."""
    command, *rest = words
    if command not in cli.COMMANDS:
        yield f"no command {command}"
        return
    names = (constant(cli.recipe_file(command), "POSITIONAL") or "").split()
    bare = len(rest) if any(name.endswith("...") for name in names) else len(names)
    value_follows = False
    for word in rest:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            if name not in settings(command):
                yield f"{command}: no setting {name}"
            value_follows = "=" not in word
        elif value_follows or word.endswith(".toml"):
            value_follows = False
        elif bare:
            bare -= 1
        else:
            yield f"{command}: nothing takes {word}"


def flat(table: dict, prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme_and_has_its_file(command: str) -> None:
    assert f"puna {command}" in first_cells(text(README))
    assert cli.recipe_file(command).is_file()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_setting_has_a_comment_and_help_names_it(command: str) -> None:
    found = describe(cli.recipe_file(command))
    shown = cli.manual(command)
    assert found
    assert [s.name for s in found if not s.comment] == []
    stages = tuple(re.findall(r"--(\w+)\.NAME", shown))
    hidden = [s.name for s in found if f"--{s.name} " not in f"{shown} "]
    assert [name for name in hidden if name.partition(".")[0] not in stages] == []


def test_every_file_of_the_package_has_one_line_in_the_structure() -> None:
    inside = (p for p in (ROOT / "puna").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    inside = (path for path in inside if not path.name.startswith("_native."))  # compiled
    files = Counter(path.relative_to(ROOT).as_posix() for path in inside)
    lines = Counter(cell for cell in first_cells(text(STRUCTURE)) if cell.startswith("puna/"))
    assert lines == files


def test_every_part_of_the_paper_has_one_line() -> None:
    wanted = [*SECTIONS, *(f"Table {n}" for n in TABLES), *(f"Figure {n}" for n in FIGURES)]
    lines = Counter(first_cells(text(PAPER)))
    assert {part: lines[part] for part in wanted if lines[part] != 1} == {}


def test_every_file_and_test_that_the_paper_s_page_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text(PAPER))
    assert len(named) > 100
    for name, function in named:
        folder = ROOT / ("tests" if name.startswith("test_") else "puna")
        assert (folder / name).is_file(), name
        tree = ast.parse(text(folder / name))
        assert not function or function in {getattr(node, "name", None) for node in tree.body}


def test_every_command_that_the_paper_s_page_names_exists() -> None:
    assert set(re.findall(r"`puna (\w+)`", text(PAPER))) <= set(cli.COMMANDS)


def test_what_is_not_built_names_no_file() -> None:
    rows = [line for line in text(PAPER).splitlines() if line.endswith("| not built |")]
    assert rows
    assert [row for row in rows if "`" in row] == []


def test_the_newest_version_of_the_changelog_is_the_package_s() -> None:
    [newest, *_] = re.findall(r"^## (\S+)", text(CHANGELOG), re.MULTILINE)
    assert newest == puna.__version__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_of_puna_on_a_page_is_one_that_works(page: Path) -> None:
    calls = [words for body in blocks(text(page)) for words in examples(body)]
    assert [fault for words in calls for fault in faults(words)] == []


def test_every_call_of_puna_in_a_recipe_s_docstring_is_one_that_works() -> None:
    recipes = sorted((ROOT / "puna/recipes").glob("*.py"))
    calls = [words for path in recipes for words in examples(docstring(path))]
    assert len(calls) >= len(cli.COMMANDS)
    assert [fault for words in calls for fault in faults(words)] == []


def test_every_setting_of_a_preset_exists() -> None:
    texts = [text(path) for path in sorted((ROOT / "presets").rglob("*.toml"))]
    texts += [body for page in PAGES for body in blocks(text(page), "toml")]
    names = {name for preset in texts for name in flat(tomllib.loads(preset))}
    assert len(texts) > 2
    assert names - settings("paper") == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        slugs = [
            re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text(linked) if heading else "", re.MULTILINE)
        ]
        assert not heading or heading in slugs, f"{page.name}: {target}"


def test_no_page_and_no_source_names_a_folder_of_somebody_s_machine() -> None:
    words = "|".join(("work", "root", "home", "tmp", "mnt", "Users"))
    folder = re.compile(rf"(?<![\w.])/(?:{words})/")
    sources = [p for top in ("puna", "presets") for p in (ROOT / top).rglob("*.[pjt]*")]
    files = [*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", *sources]
    files = [path for path in files if path.suffix != ".pyc"]
    assert [f"{p.name}: {hit}" for p in files for hit in folder.findall(text(p))] == []


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= 200
