"""`puna agreement`: exported files in, the same figures as the functions give."""

import json
from pathlib import Path

import numpy as np
import pytest

from puna import cli
from puna.evaluation.agreement import gwet, tabulate
from puna.text.dialog import STRENGTHS, Dialog, Message, Preference
from puna.text.files import read_json, write_jsonl, write_preferences


def preference(item: int, who: str, first: bool, batch: int = 1) -> Preference:
    dialog = Dialog((Message("user", f"question {item}"),), f"item-{item}", {"batch": batch})
    texts = (f"a {item}", f"b {item} and more")
    chosen, rejected = texts if first else texts[::-1]
    return Preference(dialog, chosen, rejected, STRENGTHS[item % 4], None, who)


def rating(item: int, who: str, points: int, models: tuple[str, str] = ("v1", "v2")) -> dict:
    return {
        "kind": "evaluation",
        "id": f"item-{item}",
        "batch": 1,
        "category": "writing",
        "messages": [{"role": "user", "content": f"question {item}"}],
        "answers": [{"text": "a", "model": models[0]}, {"text": "b", "model": models[1]}],
        "rating": points,
        "annotator": who,
    }


def severity(item: int, who: str, points: int) -> dict:
    messages = [{"role": "user", "content": f"attack {item}"}]
    facts = {"kind": "severity", "id": f"turn-{item}", "model": "v1", "risk": "advice"}
    return facts | {"messages": messages, "points": points, "annotator": who}


def test_preferences_of_a_file_give_the_coefficients_of_their_ratings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    votes = (rng.random((40, 3)) < 0.7).tolist()
    path, out = tmp_path / "preferences.jsonl", tmp_path / "figures.json"
    rows = [
        preference(item, f"person-{who}", first, 1 + item // 20)
        for item, row in enumerate(votes)
        for who, first in enumerate(row)
    ]
    write_preferences(path, rows)
    assert cli.main(["agreement", str(path), f"--out={out}"]) == 0
    found = read_json(out)
    mine = gwet(tabulate([[int(not first) for first in row] for row in votes], [0, 1]))
    assert found["agreement"]["preferences"]["choice"]["AC"]["value"] == pytest.approx(mine.value)
    assert [row["batch"] for row in found["batches"]["preferences"]] == [1, 2]
    assert [row["name"] for row in found["annotators"]] == ["person-0", "person-1", "person-2"]


def test_ratings_of_a_file_say_who_wins_and_how_many_violate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "ratings.jsonl", tmp_path / "figures.json"
    lines = [rating(i, w, -2 if i else 3) for i in range(5) for w in "abc"]
    lines += [severity(1, w, p) for w, p in zip("abc", (1, 2, 5), strict=True)]
    lines += [{"kind": "thumb", "up": True}]
    write_jsonl(path, lines)
    assert cli.main(["agreement", str(path), f"--out={out}"]) == 0
    found = read_json(out)
    [pair] = found["pairs"]
    assert (pair["first"], pair["win"]["value"], pair["loss"]["value"]) == ("v2", 0.8, 0.2)
    assert [row["name"] for row in found["scale"]["versions"]] == ["v2", "v1"]
    assert found["safety"][0]["violation"]["value"] == 1.0
    shown = capsys.readouterr()
    assert "v2 - v1" in shown.out
    assert "other_records" in shown.out + shown.err


def test_preferences_and_ratings_together_are_told_apart(tmp_path: Path) -> None:
    one, other, out = (tmp_path / name for name in ("p.jsonl", "r.jsonl", "figures.json"))
    write_preferences(one, [preference(i, w, True) for i in range(3) for w in "ab"])
    write_jsonl(other, [rating(i, w, 1) for i in range(3) for w in "ab"])
    assert cli.main(["agreement", str(one), str(other), f"--out={out}"]) == 0
    assert set(read_json(out)["agreement"]) == {"preferences", "evaluation"}


def test_two_versions_of_one_model_are_two_versions(tmp_path: Path) -> None:
    path, out = tmp_path / "ratings.jsonl", tmp_path / "figures.json"
    lines = [rating(i, "a", 1 - 2 * (i % 2), ("m", "m")) for i in range(4)]
    for line in lines:
        line["answers"][0]["version"], line["answers"][1]["version"] = "fp_1", "fp_2"
    write_jsonl(path, lines)
    assert cli.main(["agreement", str(path), f"--out={out}"]) == 0
    assert {row["name"] for row in read_json(out)["scale"]["versions"]} == {"m fp_1", "m fp_2"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rating": 4}, "field 'rating': expected -3 to 3"),
        ({"rating": True}, "field 'rating': expected -3 to 3"),
        ({"annotator": ""}, "field 'annotator': expected text"),
        ({"answers": [{"text": "a"}]}, "field 'answers': expected two, each with its text"),
        ({"messages": []}, "field 'messages'"),
    ],
)
def test_a_faulty_line_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, reason: str
) -> None:
    path = tmp_path / "ratings.jsonl"
    path.write_text(
        "\n".join(json.dumps(r) for r in (rating(1, "a", 1), rating(2, "a", 1) | change))
    )
    assert cli.main(["agreement", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}:2: " in said and reason in said and said.count("\n") == 1


def test_preferences_without_annotators_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "preferences.jsonl"
    write_preferences(path, [preference(1, "", True)])
    assert cli.main(["agreement", str(path)]) == 2
    assert "no judgement with an annotator" in capsys.readouterr().err
