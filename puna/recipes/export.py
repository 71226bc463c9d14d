"""Export: what people said and judged, from the store to files that the other recipes read.

    puna export preferences --store puna.db --out preferences.jsonl
    puna export dialogs --store postgresql://puna@db/puna --out dialogs.jsonl --scrub
    puna reward --preferences preferences.jsonl --model runs/sft/checkpoint

preferences: judgements that count, with strength, safety bin and the models that answered; thumbs,
rewrites and choices of the chat; comparisons that were imported. dialogs: conversations up to an
answer that was rated up, approved red-team answers. prompts: what was asked. ratings: the human
evaluation, severities, thumbs. Beside each file stands FILE.manifest.json: the snapshot id, rows,
SHA-256, what was left out and why. The same store and settings give the same bytes. snapshots: the
list of what left so far, with how many people deleted their data since.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from puna.data import formats, personal
from puna.errors import InputError
from puna.store import leaving
from puna.store.faults import Unavailable
from puna.store.leaving import SOURCES, Leaving, Wanted
from puna.store.store import Store, open_store
from puna.text.dialog import Dialog, Preference
from puna.text.files import write_bytes, write_json

POSITIONAL = "kind"


@dataclass(frozen=True, kw_only=True)
class Config:
    kind: Literal["preferences", "dialogs", "prompts", "ratings", "snapshots"]  # what leaves
    store: str = "puna.db"  # file of the store, or postgresql://user:password@host/database
    out: Path  # file to write, JSON Lines
    # "each": a row for each person's judgement; "majority": one for each item
    judgements: Literal["each", "majority"] = "each"
    sources: tuple[str, ...] = SOURCES  # annotations, chat, redteam, imported
    campaigns: tuple[str, ...] = ()  # names of campaigns; none: all, and what belongs to none
    aim: Literal["all", "helpfulness", "safety"] = (
        "all"  # only rows on harmless, or unsafe, prompts
    )
    approved: bool = False  # only judgements that a reviewer approved or edited
    scrub: bool = False  # e-mail, telephone, card, IBAN, IP, street become tags such as [email]
    # share of the prompts that go to FILE_held_out instead; a prompt stands on one side only
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    seed: int = 0  # which prompts are held out


def main(config: Config) -> dict[str, Any]:
    if config.kind == "snapshots":
        return listed(config)
    wanted = Wanted(
        kind=config.kind,
        judgements=config.judgements,
        sources=config.sources,
        campaigns=config.campaigns,
        approved=config.approved,
        scrub=config.scrub,
    )
    found = snapshot(config.store, wanted)
    rows = [row for row in found.rows if of_aim(row, config.aim)]
    sides: tuple[list[Any], list[Any]] = ([], [])
    for row in rows:
        sides[is_held_out(row, config.held_out, config.seed)].append(row)
    figures: dict[str, Any] = {"snapshot": found.name, "rows": len(sides[0])}
    write(config.out, found, sides[0], f"{config.aim} train" if config.held_out else config.aim)
    if config.held_out:
        write(beside(config.out, "_held_out"), found, sides[1], f"{config.aim} held_out")
        figures["held_out_rows"] = len(sides[1])
    figures |= {f"left out: {why}": count for why, count in sorted(found.left_out.items())}
    figures |= {f"scrubbed: {kind}": count for kind, count in sorted(found.scrubbed.items())}
    return figures


def listed(config: Config) -> dict[str, Any]:
    """Write the list of snapshots; count those that hold data which somebody deleted since."""
    store = opened(config.store)
    try:
        with store.read() as session:
            found = leaving.snapshots(session)
    except Unavailable as error:
        raise InputError(f"store: {error}") from None
    finally:
        store.close()
    write_bytes(config.out, leaving.lines(found))
    return {"snapshots": len(found), "older_than_a_deletion": sum(map(outdated, found))}


def outdated(kept: dict[str, Any]) -> bool:
    """Whether somebody deleted their data after this snapshot."""
    return bool(kept["erased_since"])


def opened(place: str) -> Store:
    """A store that is there."""
    if "://" not in place and not Path(place).exists():
        raise InputError(f"store: {place}: no such file")
    return open_store(place)


def snapshot(place: str, wanted: Wanted) -> Leaving:
    """What one state of the store holds; that it left is written down there."""
    store = opened(place)
    try:
        with store.read() as session:
            found = leaving.gather(session, wanted, personal.scrubbed if wanted.scrub else None)
        with store.write() as session:
            leaving.keep(session, found)
    except Unavailable as error:
        raise InputError(f"store: {error}") from None
    finally:
        store.close()
    return found


def write(path: Path, found: Leaving, rows: list[dict[str, Any]], part: str) -> None:
    """Rows of a snapshot and, beside them, where they come from."""
    write_bytes(path, leaving.lines(rows))
    write_json(path.with_name(f"{path.name}.manifest.json"), found.manifest(rows, part))


def beside(path: Path, suffix: str) -> Path:
    """`a.jsonl` → `a_held_out.jsonl`."""
    return path.with_name(f"{path.stem}{suffix}{path.suffix}")


def of_aim(row: dict[str, Any], aim: str) -> bool:
    """Whether a row is about an unsafe prompt, where that is asked."""
    unsafe = bool(row.get("tags", {}).get("safety")) or row.get("kind") == "severity"
    return aim == "all" or (aim == "safety") == unsafe


def is_held_out(row: dict[str, Any], share: float, seed: int) -> bool:
    """The side of a row, by its prompt alone."""
    if not share:
        return False
    if "chosen" in row:
        return formats.is_held_out(Preference.from_json(row), share, seed)
    return formats.is_held_out(Dialog.from_json(row), share, seed)
