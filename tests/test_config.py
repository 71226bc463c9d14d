"""Settings: defaults, presets and options; every fault is one line that says what to change."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import config
from puna.describe import describe
from puna.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    lr: Annotated[float, msgspec.Meta(gt=0)]
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    optim: Optim = Optim(lr=1e-3, warmup=9)
    steps: Annotated[int, msgspec.Meta(ge=1)] = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path
    seed: int = 0
    mode: Literal["fast", "slow"] = "fast"
    check: bool = False
    start: Path | None = None
    name: str = ""
    files: tuple[Path, ...] = ()
    mix: dict[str, float] = dataclasses.field(default_factory=lambda: {"web": 1.0})
    sft: Stage = dataclasses.field(default_factory=Stage)
    reward: Stage = Stage(steps=7)


def load(*argv: str) -> Config:
    return config.load(Config, ["--out=x", *argv])


def preset(tmp_path: Path, text: str, name: str = "a.toml") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def refusal(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        load(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_arguments_every_setting_has_its_default() -> None:
    assert load() == Config(out=Path("x"))


def test_a_later_preset_wins_over_an_earlier_and_an_option_over_both(tmp_path: Path) -> None:
    first = preset(tmp_path, "seed = 1\nname = 'one'\nmode = 'slow'", "a.toml")
    second = preset(tmp_path, "seed = 2\nname = 'two'", "b.toml")
    loaded = load("--seed=3", first, second)
    assert (loaded.seed, loaded.name, loaded.mode) == (3, "two", "slow")


def test_a_table_of_a_stage_changes_only_what_it_names(tmp_path: Path) -> None:
    loaded = load(preset(tmp_path, "[reward.optim]\nlr = 0.5\n[sft]\nsteps = 8"))
    assert loaded.reward == Stage(steps=7, optim=Optim(lr=0.5, warmup=9))
    assert loaded.sft == Stage(steps=8)


def test_an_option_is_written_with_or_without_the_equals_sign() -> None:
    assert load("--sft.optim.lr", "2e-4", "--seed", "-3") == load(
        "--sft.optim.lr=2e-4", "--seed=-3"
    )


def test_a_switch_needs_no_value_and_takes_one() -> None:
    assert load("--check", "--seed=1").check is True
    assert load("--check", "false").check is False
    assert load("--check=false").check is False


def test_lists_are_written_with_commas_or_as_toml() -> None:
    assert load("--files=a,b").files == (Path("a"), Path("b"))
    assert load('--files=["a,b"]').files == (Path("a,b"),)
    assert load("--sft.optim.betas=0.8,0.9").sft.optim.betas == (0.8, 0.9)


def test_an_option_adds_to_a_mapping_and_a_preset_replaces_it(tmp_path: Path) -> None:
    assert load("--mix.books=0.5").mix == {"web": 1.0, "books": 0.5}
    assert load(preset(tmp_path, "[mix]\nbooks = 0.5")).mix == {"books": 0.5}
    assert load(preset(tmp_path, "[mix]")).mix == {}


def test_none_is_a_word_only_where_none_is_allowed() -> None:
    assert load("--start=a", "--start=none").start is None
    assert load("--name=none").name == "none"
    assert "whole number" in refusal("--seed=none")


def test_a_setting_of_text_keeps_digits_as_text() -> None:
    assert load("--name=007").name == "007"


def test_the_home_folder_may_be_written_as_a_tilde() -> None:
    assert load("--start=~/models").start == Path.home() / "models"


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--seed=1.5", "--seed=1.5: expected a whole number"),
        ("--seed=abc", "--seed=abc: expected a whole number"),
        ("--sft.steps=0", "--sft.steps=0: expected a whole number >= 1"),
        ("--sft.optim.lr=-1", "--sft.optim.lr=-1: expected a number > 0.0"),
        ("--mix.web=nan", "--mix.web=nan: expected a number"),
        ("--mode=medium", "--mode=medium: expected one of fast, slow"),
        ("--check=maybe", "--check=maybe: expected true or false"),
        ("--sft=3", "--sft=3: expected a table"),
        ("--sft.optim.betas=1", "--sft.optim.betas=1: expected a list of length 2, got 1"),
        ("--sft.optim.betas=1,b", "--sft.optim.betas=1,b: expected a number"),
        ("--seed", "--seed: a value is missing, expected --seed=..."),
        ("--sft.optim.lrr=1", "unknown setting sft.optim.lrr; did you mean sft.optim.lr?"),
        ("--lr=1", "unknown setting lr; did you mean sft.optim.lr?"),
        ("--zebra=1", "unknown setting zebra"),
        ("--seed.x=1", "unknown setting seed.x"),
        ("--files=[1", "--files=[1: expected a list or table in TOML"),
        ("--start=", "--start=: expected a path"),
        ("stray", "unexpected argument 'stray': expected a preset (*.toml) or --name=value"),
        ("nowhere.toml", "nowhere.toml: no such file"),
    ],
)
def test_a_fault_on_the_command_line_is_told_in_one_line(argument: str, line: str) -> None:
    assert refusal(argument).startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed = 1\n\nmode = \n", ":3: Invalid value"),
        ("seed = 1\nname = 'x", ":2: "),
        ("seed = 'many'", ": seed = 'many': expected a whole number"),
        ("[sft.optim]\nlr = 'x'", ": sft.optim.lr = 'x': expected a number"),
        ("[sfd]\nsteps = 1", ": unknown setting sfd.steps; did you mean sft.steps?"),
        ("[sfd]", ": unknown setting sfd; did you mean sft?"),
        ("name = 3", ": name = 3: expected text"),
        ("start = 3", ": start = 3: expected a path"),
        ("files = 'a'", ": files = 'a': expected a list"),
        ("[mix]\nweb = nan", ": mix = {'web': nan}: expected a number"),
    ],
)
def test_a_fault_in_a_preset_names_the_file(tmp_path: Path, text: str, line: str) -> None:
    path = preset(tmp_path, text)
    assert refusal(path).startswith(path + line)


def test_a_preset_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(str(tmp_path / "a.toml"))


def test_all_missing_settings_are_named_at_once() -> None:
    @dataclasses.dataclass(frozen=True)
    class Needs:
        data: Path
        optim: Optim
        seed: int = 0

    with pytest.raises(InputError, match=r"^missing settings data, optim\.lr: give --data="):
        config.load(Needs, [])


def test_a_dataclass_that_refuses_its_values_is_heard() -> None:
    @dataclasses.dataclass(frozen=True)
    class Picky:
        low: int = 0
        high: int = 1

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise InputError("low: expected at most high")

    with pytest.raises(InputError, match="low: expected at most high"):
        config.load(Picky, ["--low=5"])


@given(
    st.builds(
        Config,
        out=st.sampled_from([Path("x"), Path("a b/c"), Path('quo"te')]),
        seed=st.integers(-(2**60), 2**60),
        mode=st.sampled_from(["fast", "slow"]),
        check=st.booleans(),
        start=st.none() | st.just(Path("s")),
        name=st.text(st.characters(codec="utf-8")),
        files=st.lists(st.just(Path("f"))).map(tuple),
        mix=st.dictionaries(st.text("abc_.", min_size=1), st.floats(allow_nan=False)),
        reward=st.builds(
            Stage, optim=st.builds(Optim, lr=st.floats(1e-9, 1)), steps=st.integers(1, 9)
        ),
    )
)
def test_settings_survive_a_round_through_toml(settings: Config) -> None:
    path = Path("unused.toml")
    tree = tomllib.loads(config.dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "read_toml", lambda _: tree)
        assert config.load(Config, [str(path)]) == settings


def test_the_first_difference_of_two_trees_is_named() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    assert config.difference(old, {"a": 1, "b": {"c": 2, "d": 4}}) == ("b.d", 3, 4)
    assert config.difference(old, {"a": 1, "b": {"c": 2}}) == ("b.d", 3, "not set")
    assert config.difference(old, {"a": 1, "b": {"c": 2, "d": 3}, "e": 5}) == ("e", "not set", 5)
    assert config.difference(old, dict(old)) is None


RECIPE = '''"""A recipe."""
import nowhere_to_be_found
from dataclasses import dataclass, field
from typing import Annotated
from puna import parts as p
from puna.parts import Optim

POSITIONAL = "model"

@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path  # folder to write
    # the model
    # to start from
    model: Path = Path("base")
    steps: Annotated[int, Meta(ge=1, le=9)] = 5  # how many
                                                 # (paper: 100)
    bare: int = 1
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-5))  # optimiser
    other: p.Optim = p.Optim()
'''
PARTS = '''"""Parts."""
import nowhere_to_be_found

@dataclass
class Optim:
    lr: float = 1.0  # rate
    clip: float = 1.0  # norm
'''


def test_settings_are_described_from_source_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "puna").mkdir()
    (tmp_path / "puna/parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "puna/recipe.py").write_text(RECIPE, encoding="utf-8")
    found = [dataclasses.astuple(s) for s in describe(tmp_path / "puna/recipe.py")]
    assert found == [
        ("out", "Path", None, "folder to write"),
        ("model", "Path", "Path('base')", "the model to start from"),
        ("steps", "int >= 1, <= 9", "5", "how many (paper: 100)"),
        ("bare", "int", "1", ""),
        ("optim.lr", "float", "2e-05", "rate"),
        ("optim.clip", "float", "1.0", "norm"),
        ("other.lr", "float", "1.0", "rate"),
        ("other.clip", "float", "1.0", "norm"),
    ]
