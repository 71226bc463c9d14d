"""People: the judgements of a store, taken once, as a stage of `puna align` and `puna paper`.

    puna align --preferences store --run runs/align --data runs/prepare
    puna align --preferences judged.jsonl --world none --versions 1

A snapshot of the store (or a file of comparisons) goes into the run's folder, so that the run can
be resumed and repeated bit for bit whatever happens to the store. It is split by prompt into
preferences_helpfulness.jsonl, preferences_safety.jsonl and their held-out parts, and takes the
place of simulated annotators and of `puna prepare`'s judgements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from sqlalchemy.engine import make_url

from puna.data import formats
from puna.errors import InputError
from puna.model import checkpoint, places
from puna.recipes import export, prepare
from puna.recipes.collect import HELPFUL, SAFE
from puna.run import Run
from puna.store.leaving import Wanted
from puna.text.dialog import Preference
from puna.text.files import read_preferences, write_preferences
from puna.text.template import tags_of

DEFAULT_STORE = "puna.db"


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/people")  # folder of this stage
    # "store": the file puna.db here; else a store's file or URL, or a file of comparisons
    preferences: str = "store"
    model: Path = Path("runs/sft/checkpoint")  # chat model whose special words no text may hold
    # "each": a comparison for each person's judgement; "majority": one for each item
    judgements: Literal["each", "majority"] = "each"
    approved: bool = False  # only judgements that a reviewer approved or edited
    scrub: bool = False  # personal data become tags such as [email]
    # share of the prompts kept for testing (paper: 1000 comparisons a batch)
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    least: Annotated[int, Meta(ge=2)] = 20  # comparisons of a kind below which nothing is learnt
    seed: int = 0  # which prompts are held out


def main(config: Config) -> dict[str, Any]:
    check(config.preferences)
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    found, snapshot = taken(config)
    source = places.open_source(str(config.model), verify=False)
    tags = tags_of(checkpoint.tokenizer_for(source, str(config.model)))
    clean = [one for one in found if not tags.search(prepare.said(one))]
    figures: dict[str, Any] = {"snapshot": snapshot, "with_tags": len(found) - len(clean)}
    for kind in (HELPFUL, SAFE):
        mine = [one for one in clean if bool(one.dialog.tags.get("safety")) == (kind == SAFE)]
        train, test = formats.split_by_prompt(mine, config.held_out, config.seed)
        enough(config, kind, train, test)
        write_preferences(run.folder / f"preferences_{kind}.jsonl", train)
        write_preferences(run.folder / f"preferences_{kind}_held_out.jsonl", test)
        figures[f"{kind}_pairs"] = len(train)
        figures[f"{kind}_held_out_pairs"] = len(test)
    if not clean:
        raise InputError(f"preferences={config.preferences}: has 0 comparisons, expected some")
    return run.finish(**figures)


def check(preferences: str) -> None:
    """InputError for a URL that holds a password: settings are written into the run's folder."""
    if "://" in preferences and make_url(preferences).password:
        raise InputError(
            "preferences: the URL holds a password, which would be written into the run's folder; "
            "leave it out and set PGPASSWORD or ~/.pgpass"
        )


def taken(config: Config) -> tuple[list[Preference], str]:
    """All comparisons, and the snapshot's name (a file's is its own name)."""
    place = DEFAULT_STORE if config.preferences == "store" else config.preferences
    if "://" not in place and Path(place).exists() and not is_store(Path(place)):
        return read_preferences(place), Path(place).name
    wanted = Wanted(judgements=config.judgements, approved=config.approved, scrub=config.scrub)
    found = export.snapshot(place, wanted)
    export.write(config.run / "snapshot.jsonl", found, found.rows, "all")
    return [Preference.from_json(row) for row in found.rows], found.name


def is_store(path: Path) -> bool:
    """Whether a file begins as SQLite's do."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def enough(
    config: Config, kind: str, train: Sequence[Preference], test: Sequence[Preference]
) -> None:
    """InputError if there are some comparisons of the kind, but too few to learn and to test."""
    many = len(train) + len(test)
    if many and (many < config.least or not train or not test):
        raise InputError(
            f"preferences={config.preferences}: has {many} comparisons of {kind} ({len(test)} held "
            f"out), expected at least least={config.least}, some of them held out"
        )
