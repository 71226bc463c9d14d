"""Where one can go from every page: the entries of its bar, and who sees which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from puna.web.site.viewer import Viewer


@dataclass(frozen=True)
class Entry:
    """One page in the bar."""

    name: str
    path: str
    glyph: str  # of static/icons.svg
    current: bool = False


ENTRIES = (
    Entry("Chat", "/chat", "chat"),
    Entry("Annotate", "/annotate", "annotate"),
    Entry("Red team", "/redteam", "redteam"),
    Entry("Review", "/review", "review"),
    Entry("Campaigns", "/campaigns", "campaigns"),
    Entry("Quality", "/quality", "quality"),
    Entry("Evaluation", "/evaluation", "evaluation"),
    Entry("People", "/people", "people"),
    Entry("Audit", "/audit", "audit"),
)

# What is under one's own name.
OWN = (
    Entry("Your account", "/profile", "person"),
    Entry("Your figures", "/me/figures", "quality"),
    Entry("Feedback", "/feedback", "review"),
)


def entries(
    viewer: Viewer, here: str, pages: Mapping[str, str], among: Sequence[Entry] = ENTRIES
) -> list[Entry]:
    """What this viewer sees. here: the path of the page; pages: the role of each page there is."""
    if not viewer.known:
        return []
    return [
        Entry(entry.name, entry.path, entry.glyph, _leads(entry.path, here))
        for entry in among
        if entry.path in pages and viewer.may(pages[entry.path])
    ]


def _leads(path: str, here: str) -> bool:
    return here == path or here.startswith(f"{path}/")
