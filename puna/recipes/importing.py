"""Import: comparisons of Argilla, Label Studio or Puna into the store, to be exported with ours.

    puna import records.json --store puna.db
    puna import tasks.json --prompt question --answers answer_a,answer_b
    puna import judged.jsonl --store puna.db --aim safety --skip_bad

Argilla: records as JSON (`to_json`) or a data set's JSON Lines, versions 1 and 2, with a ranking or
a label question. Label Studio: JSON or JSON-MIN with a Pairwise tag. Puna: what `puna export
preferences` wrote. Each bad record is one line that names file, record and field; nothing is
stored if there is one, unless they are to be skipped. The same file is taken once.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from puna.data.judged import Judged, Names, read_judged
from puna.errors import InputError
from puna.store import arriving
from puna.store.faults import Conflict, Unavailable
from puna.store.store import open_store
from puna.text.files import sha256

POSITIONAL = "file"
MOST_LINES = 20  # faults that are shown


@dataclass(frozen=True, kw_only=True)
class Config:
    file: Path  # JSON or JSON Lines, may be packed (.gz)
    store: str = "puna.db"  # file of the store, or postgresql://user:password@host/database
    # the tool that wrote the file; "auto": found by its fields
    format: Literal["auto", "argilla", "label_studio", "puna"] = "auto"
    aim: Literal["helpfulness", "safety"] = "helpfulness"  # what was judged
    prompt: str = ""  # field that holds the prompt; "": found by its name
    answers: tuple[str, ...] = ()  # fields that hold the two answers; none: found by their names
    question: str = ""  # Argilla's question, or Label Studio's Pairwise tag; "": the one that fits
    skip_bad: bool = False  # whether records that are wrong are counted and passed over


def main(config: Config) -> dict[str, Any]:
    if len(config.answers) not in (0, 2):
        raise InputError(f"answers={','.join(config.answers)}: expected two names, or none")
    names = Names(config.prompt, config.answers, config.question)
    known = None if config.format == "auto" else config.format
    judged = read_judged(config.file, known, names, {"safety": config.aim == "safety"})
    refuse(config, judged)
    store = open_store(config.store)
    try:
        with store.write() as session:
            source = f"{judged.format}: {config.file.name}"
            comparisons = (one for _, one in judged.found)
            stored = arriving.bring_in(session, source, sha256(config.file), comparisons)
    except (Conflict, Unavailable) as error:
        raise InputError(f"{config.file}: {error}") from None
    finally:
        store.close()
    left_out = {f"left out: {why}": count for why, count in judged.left_out.items() if count}
    return {
        "format": judged.format,
        "records": judged.records,
        "comparisons": stored,
        "bad": judged.bad,
        **left_out,
    }


def refuse(config: Config, judged: Judged) -> None:
    """Show what is wrong, one line each; InputError unless it is skipped and something is left."""
    for line in judged.faults[:MOST_LINES]:
        print(line, file=sys.stderr)
    if len(judged.faults) > MOST_LINES:
        print(f"... and {len(judged.faults) - MOST_LINES} more", file=sys.stderr)
    if judged.bad and not config.skip_bad:
        raise InputError(
            f"{config.file}: {judged.bad} of {judged.records} records are bad, nothing was stored; "
            "--skip_bad leaves them out"
        )
    if not judged.found:
        raise InputError(f"{config.file}: none of its {judged.records} records has a comparison")
