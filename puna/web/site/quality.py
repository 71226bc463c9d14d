"""The quality page, the evaluation's results, and everybody's own figures."""

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from puna.evaluation.agreement import WEIGHTS
from puna.evaluation.ratings import HOW
from puna.store.faults import Refused
from puna.text.dialog import STRENGTHS
from puna.web.site import figuring
from puna.web.site.routes import Routes
from puna.web.site.sheet import sheet
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer

routes = Routes()

SCALES = tuple(name for name in WEIGHTS if name != "ratio")  # ratio needs a scale from 0 on
Cells = tuple[object, ...]
Table = tuple[Cells, Iterator[Cells]]


@routes.get("/quality", role="reviewer")
async def quality_page(request: Request, viewer: Viewer) -> Response:
    """Agreement, annotators, drift."""
    return page(request, viewer, "quality", scales=SCALES)


@routes.get("/evaluation", role="reviewer")
async def evaluation_page(request: Request, viewer: Viewer) -> Response:
    """Versions side by side."""
    return page(request, viewer, "evaluation", scales=SCALES)


@routes.get("/me/figures", role="annotator")
async def own_page(request: Request, viewer: Viewer) -> Response:
    """What a person may know about the own work."""
    return page(request, viewer, "figures")


@routes.get("/api/quality", role="reviewer")
async def quality_figures(request: Request, viewer: Viewer) -> Response:
    """One campaign's figures; ?campaign= its number, ?weights= of the degree."""
    return reply(await _quality(request))


@routes.get("/api/quality.csv", role="reviewer")
async def quality_sheet(request: Request, viewer: Viewer) -> Response:
    """One table of the quality page; ?table= agreement, annotators, batches, disagreements."""
    tables = {
        "agreement": _agreement,
        "annotators": _annotators,
        "batches": _batches,
        "disagreements": _disagreements,
    }
    name = _one_of(request, "table", tuple(tables), "agreement")
    head, rows = tables[name](await _quality(request))
    return sheet(name, [str(title) for title in head], rows)


@routes.get("/api/evaluation", role="reviewer")
async def evaluation_figures(request: Request, viewer: Viewer) -> Response:
    """All versions; ?campaign= one only, ?how= majority or mean, ?weights= of AC2."""
    return reply(await _evaluation(request))


@routes.get("/api/evaluation.csv", role="reviewer")
async def evaluation_sheet(request: Request, viewer: Viewer) -> Response:
    """One table of the evaluation; ?table= pairs, versions, safety."""
    tables = {"pairs": _pairs, "versions": _versions, "safety": _safety}
    name = _one_of(request, "table", tuple(tables), "pairs")
    head, rows = tables[name](await _evaluation(request))
    return sheet(f"evaluation-{name}", [str(title) for title in head], rows)


@routes.get("/api/me/figures", role="annotator")
async def own_figures(request: Request, viewer: Viewer) -> Response:
    """The viewer's own figures, and nobody else's."""
    site = site_of(request)
    return reply(await figuring.figures(site, figuring.own_figures, viewer.id))


async def _quality(request: Request) -> dict[str, Any]:
    weights = _one_of(request, "weights", SCALES, "ordinal")
    wanted = (_number(request, "campaign"), weights)
    found: dict[str, Any] = await figuring.figures(
        site_of(request), figuring.campaign_figures, *wanted
    )
    return found


async def _evaluation(request: Request) -> dict[str, Any]:
    how = _one_of(request, "how", HOW, "majority")
    weights = _one_of(request, "weights", SCALES, "ordinal")
    wanted = (_number(request, "campaign"), how, weights)
    found: dict[str, Any] = await figuring.figures(
        site_of(request), figuring.evaluation_figures, *wanted
    )
    return found


def _one_of(request: Request, name: str, known: tuple[str, ...], usual: str) -> str:
    value = request.query_params.get(name, usual)
    if value not in known:
        raise Refused(name, f"expected one of {', '.join(known)}")
    return value


def _number(request: Request, name: str) -> int | None:
    value = request.query_params.get(name, "")
    if value and not (value.isascii() and value.isdigit() and len(value) < 16):
        raise Refused(name, "expected a whole number")
    return int(value) if value else None


def _estimate(found: Mapping[str, Any] | None) -> Cells:
    found = found or {}
    return tuple(found.get(name) for name in ("value", "low", "high", "n"))


def _agreement(found: Mapping[str, Any]) -> Table:
    head = ("batch", "of", "coefficient", "value", "se", "low", "high", "items", "why not")

    def rows() -> Iterator[Cells]:
        parts = [("all", found["agreement"])]
        parts += [(row["batch"], row["agreement"]) for row in found["batches"]]
        for batch, agreement in parts:
            for what, coefficients in agreement.items():
                for name, one in coefficients.items():
                    cells = (one.get(key) for key in ("value", "se", "low", "high", "items"))
                    yield (batch, what, one.get("name", name), *cells, one.get("why", ""))

    return head, rows()


def _annotators(found: Mapping[str, Any]) -> Table:
    parts = ("agreement", "gold", "position", "length")
    ends = ("", " low", " high", " n")
    head = (
        *("name", "judged", "AC1 without"),
        *(part + end for part in parts for end in ends),
        *("position p", "length slope", "median seconds", "too fast", *STRENGTHS, "flags"),
    )

    def rows() -> Iterator[Cells]:
        for row in found["annotators"]:
            flags = "; ".join(flag["reason"] for flag in row["flags"])
            pace = row["speed"] or {"median": None, "fast": {"value": None}}
            yield (
                *(row["name"], row["judged"], row["without"]),
                *(value for part in parts for value in _estimate(row[part])),
                (row["position"] or {}).get("p"),
                (row["length"] or {}).get("slope"),
                *(pace["median"], pace["fast"]["value"]),
                *(row["strengths"][name] for name in STRENGTHS),
                flags,
            )

    return head, rows()


def _batches(found: Mapping[str, Any]) -> Table:
    sizes = ("comparisons", "turns", "example", "prompt", "response")
    unit = found["unit"]
    head = (
        *("batch", "judgements", "people", "comparisons", "turns a dialogue"),
        *(f"{unit} {name}" for name in sizes[2:]),
        *STRENGTHS,
    )

    def rows() -> Iterator[Cells]:
        for row in found["batches"]:
            yield (
                *(row["batch"], row["judgements"], row["people"]),
                *((row["sizes"] or {}).get(name) for name in sizes),
                *((row["strengths"].get(name) or {}).get("value") for name in STRENGTHS),
            )

    return head, rows()


def _disagreements(found: Mapping[str, Any]) -> Table:
    def rows() -> Iterator[Cells]:
        for row in found["disagreements"]:
            said = "; ".join(f"{one['name']}: {one['grade']}" for one in row["grades"])
            yield row["item"], row["spread"], said, row["category"], row["prompt"]

    return ("item", "spread", "grades", "category", "prompt"), rows()


def _pairs(found: Mapping[str, Any]) -> Table:
    outcomes = ("win", "tie", "loss")
    ends = ("", " low", " high")
    head = (
        *("first", "second", "by", "group", "prompts", "ratings"),
        *(name + end for name in outcomes for end in ends),
        *("AC2", "AC2 low", "AC2 high"),
    )

    def rows() -> Iterator[Cells]:
        for pair in found["pairs"]:
            parts = [("all", "", pair)]
            for by in ("kind", "category", "turns", "length"):
                parts += [(by, part["group"], part) for part in pair[f"by_{by}"]]
            for by, group, part in parts:
                ac2 = part.get("agreement", {}).get("AC")
                yield (
                    *(pair["first"], pair["second"], by, group, part["prompts"], part["ratings"]),
                    *(value for name in outcomes for value in _estimate(part[name])[:3]),
                    *_estimate(ac2)[:3],
                )

    return head, rows()


def _versions(found: Mapping[str, Any]) -> Table:
    names = ("name", "elo", "low", "high", "games")
    versions = found["scale"].get("versions", [])
    return names, (tuple(row[name] for name in names) for row in versions)


def _safety(found: Mapping[str, Any]) -> Table:
    parts = ("violation", "mean")
    ends = ("", " low", " high")
    head = ("model", "by", "group", "prompts", "ratings", *(p + end for p in parts for end in ends))

    def rows() -> Iterator[Cells]:
        for model in found["safety"]:
            groups = [("all", "", model)]
            for by in ("kind", "category"):
                groups += [(by, part["group"], part) for part in model[f"by_{by}"]]
            for by, group, part in groups:
                figures = (value for name in parts for value in _estimate(part[name])[:3])
                yield model["model"], by, group, part["prompts"], part["ratings"], *figures

    return head, rows()
