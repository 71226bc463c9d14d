"""The report: one page that stands alone, escapes everything and says what is missing."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from puna.errors import InputError
from puna.evaluation import report
from puna.evaluation.report import charts
from puna.evaluation.report.charts import Axes, Line, Point, Series
from puna.evaluation.report.reading import duration, memory, percent, short, thinned, words

HOSTILE = "<script src='https://evil.example/x.js'>alert(1)</script>\"'&"
VOID = {"meta", "br"}


def rate(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100}


def reward_model():
    bins = [{"predicted": p, **rate(p)} for p in (0.1, 0.5, 0.9)]
    return {
        "accuracy": rate(0.7),
        "by_strength": {"significantly_better": rate(0.9), "negligibly_better": rate(0.55)},
        "by_safety": {"both_safe": rate(0.6)},
        "calibration": {"error": 0.03, "bins": bins},
        "length_only": {**rate(0.53), "direction": "longer"},
        "floor": rate(0.61),
        "unsafe": {"recall": rate(0.8), "auc": rate(0.9), "strict_precision": None},
    }


def full(name="Tiny cafe", word="hello"):
    versions = [
        {
            "name": f"{word} V{i}",
            "helpfulness": 0.5 + i / 10,
            "helpfulness_interval": [0.45 + i / 10, 0.55 + i / 10],
            "violation": rate(0.4 - i / 10),
            "false_refusal": rate(0.1),
            "reward_helpfulness": 0.5,
            "reward_safety": 0.6,
            "win_rate": 0.5,
        }
        for i in range(3)
    ]
    return {
        "format": 1,
        "name": name,
        "final": f"stages/{word}",
        "figures": {"helpfulness.sft": 0.5, "helpfulness.final": 0.75, "seconds.sft": 3},
        "stages": [
            {
                "name": word,
                "seconds": 75.0,
                "peak_memory_mb": 1500,
                "energy_wh": 0.2,
                "figures": {"loss": 1.5},
            }
        ],
        "curves": {
            word: [{"step": i, "loss": 3.0 - i / 100} for i in range(100)],
            "ppo": [{"step": i, "reward": i / 10, "kl": 0.01 * i} for i in range(5)],
        },
        "reward_models": {"helpfulness": reward_model(), "safety": reward_model()},
        "temperatures": {
            "n": [1, 2, 4],
            "max": {"0.6": [0.5, 0.6, 0.65], "1.2": [0.4, 0.6, 0.7]},
            "median": {"0.6": [0.5, 0.5, 0.5], "1.2": [0.4, 0.4, 0.4]},
            "best": 1.2,
            "best_n": 4,
        },
        "versions": versions,
        "persona": {"baseline": {"1": 1.0, "6": rate(0.1)}, "gatt": {"1": 1.0, "6": 0.9}},
        "samples": [
            {
                "prompt": [{"role": "user", "content": word}],
                "before": word,
                "after": word,
                "kind": word,
            }
        ],
        "tables": [{"title": word, "columns": [word], "rows": [[word], [0.5]]}],
        "settings": {word: {"lr": word}},
    }


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_loads_nothing_and_runs_no_script():
    page = Page(report.render(full()))
    assert "script" not in page.tags
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    links = [v for _, name, v in page.attributes if name in ("src", "href", "srcset", "data")]
    assert all(link.startswith("#") for link in links)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    style = re.search(r"<style>(.*?)</style>", report.render(full()), re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_hostile_text_is_shown_and_never_run():
    source = report.render(full(name=HOSTILE, word=HOSTILE))
    page = Page(source)
    assert "script" not in page.tags
    assert "<script" not in source.lower()
    assert HOSTILE in "".join(page.text)


def test_hostile_keys_are_escaped_too():
    results = full()
    results["reward_models"] = {HOSTILE: {"by_strength": {HOSTILE: 0.5}, "unsafe": {HOSTILE: 0.5}}}
    results["curves"] = {"x": [{"step": 1, f"loss {HOSTILE}": 1.0}, {"step": 2, "loss b": 2.0}]}
    assert "<script" not in report.render(results).lower()


def test_every_section_of_a_full_report_is_there_without_a_note():
    page = report.render(full())
    for key in "pipeline losses rewards temperatures versions persona ppo samples tables".split():
        assert f'<section id="{key}">' in page
    assert 'class="missing"' not in page


def test_an_empty_report_says_of_each_section_that_it_is_missing():
    page = report.render({"format": 1})
    assert page.count('class="missing"') == 12  # key figures, 2 reward and 2 persona lines, 7 more
    assert "<svg" not in page
    assert "Unnamed run" in page


@pytest.mark.parametrize(
    "field, note",
    [
        ("stages", "no stages"),
        ("curves", "no loss curves"),
        ("reward_models", "no safety reward model"),
        ("temperatures", "no samples by temperature"),
        ("versions", "no versions"),
        ("persona", "no persona dialogues with ghost attention"),
        ("samples", "no sample dialogues"),
        ("settings", "no settings"),
    ],
)
def test_a_missing_field_is_noted_and_the_rest_is_shown(field, note):
    results = full()
    del results[field]
    assert note in report.render(results)


def test_a_version_field_that_was_not_measured_is_noted():
    results = full()
    for version in results["versions"]:
        del version["false_refusal"]
    assert "The results hold no violations with false refusals by version." in report.render(
        results
    )


def test_a_sample_needs_no_kind():
    sample = {"prompt": [{"role": "user", "content": "tea?"}], "before": "a", "after": "b"}
    assert "tea?" in report.render({"format": 1, "samples": [sample]})


def test_a_version_may_bring_its_intervals_in_fields_of_their_own():
    plain = {"name": "V1", "helpfulness": 0.6, "violation": 0.2}
    bare = report.render({"format": 1, "versions": [plain]})
    given = {**plain, "helpfulness_interval": [0.5, 0.7], "violation_interval": [0.1, 0.3]}
    page = report.render({"format": 1, "versions": [given]})
    assert page.count('class="whisker') == bare.count('class="whisker') + 2
    assert "interval</th>" not in page


def test_the_ppo_chart_shows_the_rewards_under_their_own_names():
    steps = [{"step": i, "combined": 0.1, "held_out_reward": 0.2, "kl": 0.3} for i in range(3)]
    page = report.render({"format": 1, "curves": {"v1/ppo": steps}})
    assert "</i>Combined</li>" in page and "</i>Held out reward</li>" in page


def test_numbers_that_are_not_finite_are_left_out():
    results = full()
    results["curves"] = {"sft": [{"step": i, "loss": v} for i, v in enumerate((2.0, float("nan")))]}
    results["figures"]["helpfulness.final"] = float("inf")
    page = report.render(results)
    assert "nan" not in page.lower() and ">inf" not in page.lower()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "format: 1 was expected"),
        ({"curve": {}}, "unknown field 'curve'"),
        ({"stages": {}}, "stages: a list of objects"),
        ({"versions": [{"helpfulness": 1}]}, r"versions\.name: a text"),
        ({"figures": {"helpfulness.final": "high"}}, r"figures\.helpfulness\.final: a number"),
        ({"persona": {"gatt": {"six": 1.0}}}, r"persona\.gatt: keys that are numbers"),
        ({"temperatures": {"n": [0], "max": {}}}, r"temperatures\.n: a list of numbers from 1 on"),
        ({"temperatures": {"n": [1], "max": {"1": []}}}, "a list of 1 numbers"),
    ],
)
def test_a_wrong_field_is_refused_with_its_place(change, message):
    with pytest.raises(InputError, match=message):
        report.render({**full(), **change})


def test_write_makes_the_file_from_results_that_went_through_json(tmp_path):
    path = tmp_path / "report.html"
    report.write(path, json.loads(json.dumps(full())))
    assert path.read_text(encoding="utf-8") == report.render(full())


def test_the_key_figures_show_before_and_after():
    text = re.sub("[ \n]+", " ", " ".join(Page(report.render(full())).text))
    assert "Helpfulness 75.0\u202f% 50.0\u202f% after SFT" in text
    assert "Whole run 1 min 15 s" in text


# Charts


def numbers(pattern, picture):
    return [float(v) for v in re.findall(pattern, str(picture))]


def test_ticks_are_round_numbers_inside_the_ends():
    assert charts.ticks(0.03, 0.98) == [0.2, 0.4, 0.6, 0.8]
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-3, 12) == [0, 5, 10]
    assert charts.ticks(1200, 1900) == [1200, 1400, 1600, 1800]


def test_a_line_chart_places_points_in_proportion():
    series = [Series("a", [Point(0, 0), Point(5, 1), Point(10, 2)])]
    picture = charts.line_chart(series, Axes(y_ends=(0, 2)))
    xs, ys = numbers(r'cx="([\d.]+)"', picture), numbers(r'cy="([\d.]+)"', picture)
    assert xs == pytest.approx([50, 277, 504], abs=0.1)
    assert ys == pytest.approx([256, 143, 30], abs=0.1)


def test_a_logarithmic_axis_gives_each_doubling_the_same_width():
    series = [Series("a", [Point(n, 1) for n in (1, 2, 4, 8)])]
    xs = numbers(r'cx="([\d.]+)"', charts.line_chart(series, Axes(x_log=True)))
    steps = [b - a for a, b in pairwise(xs)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_a_chart_of_a_single_point_has_finite_places():
    for picture in (
        charts.line_chart([Series("a", [Point(3, 0)])], Axes()),
        charts.scatter_path([Point(0.5, 0.5, name="V1")], Axes()),
        charts.bar_chart([Point(0, 0, name="none")], Axes()),
    ):
        assert "nan" not in picture and "inf" not in picture


def test_bar_heights_are_in_proportion_from_zero():
    bars = [Point(0, 0.25, name="a"), Point(0, 0.5, 0.4, 0.6, name="b")]
    picture = charts.bar_chart(bars, Axes(y_ends=(0, 1)), [Line("Chance", 0.5)])
    small, large = numbers(r'height="([\d.]+)" rx', picture)
    assert large == pytest.approx(2 * small, abs=0.2)
    assert "Chance" in picture


def test_a_legend_names_every_line_but_the_faint_ones():
    points = [Point(0, 0), Point(1, 1)]
    series = [Series("raw", points, faint=True), Series("mean", points), Series("other", points)]
    found = re.findall(r"</i>(.*?)</li>", charts.line_chart(series, Axes()))
    assert found == ["mean", "other"]


def test_names_beside_close_points_do_not_overlap():
    points = [Point(0.5 + i / 200, 0.5 + i / 300, name=f"Version {i}") for i in range(5)]
    picture = charts.scatter_path(points, Axes())
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="mark">', picture)
    places = [(float(x), float(y)) for x, y in found]
    assert len(set(places)) == 5
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[i + 1 :]:
            assert abs(x - other_x) > 55 or abs(y - other_y) > 10


# Numbers in words


def test_numbers_are_written_for_reading():
    assert percent(0.8237) == "82.4\u202f%"
    assert [duration(s) for s in (2.24, 59.4, 125, 11400)] == [
        "2.2 s",
        "59 s",
        "2 min 05 s",
        "3 h 10 min",
    ]
    assert [memory(m) for m in (850, 1234)] == ["850 MB", "1.2 GB"]
    assert [short(v) for v in (0.12345, 12345, None)] == ["0.123", "12,345", "\u2013"]
    assert [words(n) for n in ("false_refusal", "sft", "rejection_v1")] == [
        "False refusal",
        "SFT",
        "Rejection v1",
    ]


def test_thinning_keeps_the_mean_and_the_order():
    points = [Point(i, i % 7) for i in range(1000)]
    found = thinned(points, 40)
    assert len(found) == 40
    assert [p.x for p in found] == sorted(p.x for p in found)
    assert sum(p.y for p in found) / 40 == pytest.approx(sum(p.y for p in points) / 1000)
