"""Markdown of strangers: it looks right, runs nothing, loads nothing, and takes a bounded time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.web.site import markdown
from puna.web.site.markdown import LINE, LONGEST, Growing, plain, rendered, settled
from tests.hostile import HOSTILE, SLOW, faults_in

SHOWN = (
    ("**strong** and *em*", '<p dir="auto"><strong>strong</strong> and <em>em</em></p>'),
    ("# A", '<h1 dir="auto">A</h1>'),
    ("3. a\n4. b", '<ol start="3">\n<li dir="auto">a</li>\n<li dir="auto">b</li>\n</ol>'),
    ("~~no~~", '<p dir="auto"><s>no</s></p>'),
    ("a  \nb", '<p dir="auto">a<br>\nb</p>'),
    ("> q", '<blockquote dir="auto">\n<p dir="auto">q</p>\n</blockquote>'),
)


@pytest.mark.parametrize(("text", "html"), SHOWN)
def test_markdown_becomes_html(text, html):
    assert rendered(text).strip() == html


def test_code_says_its_language_and_keeps_its_text():
    html = rendered("```python\nif a < b: # <b>\n    pass\n```")
    assert '<code class="language-python">if a &lt; b: # &lt;b&gt;\n    pass\n</code>' in html


def test_a_table_keeps_its_sides_by_class():
    html = rendered("| a | b |\n|:-:|--:|\n| 1 | 2 |")
    assert '<td class="center" dir="auto">1</td>' in html and "style" not in html


@pytest.mark.parametrize("address", ["http://a.b/c?d=1&e=2", "https://a.b", "mailto:x@y.z"])
def test_a_link_to_the_web_opens_elsewhere_and_says_nothing_of_us(address):
    html = rendered(f"[tea]({address})")
    assert html.count("<a ") == 1
    assert 'target="_blank" rel="noopener noreferrer nofollow"' in html


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_runs_or_loads(text):
    assert faults_in(rendered(text)) == []
    assert "<img" not in rendered(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_does_so_in_a_list_a_quote_a_table_or_a_heading(text):
    for around in ("- {}", "> {}", "# {}", "| {} |\n|---|\n| {} |", "**{}**", "[{}](http://a.b)"):
        assert faults_in(rendered(around.replace("{}", text))) == []


@given(st.text(alphabet="<>\"'`=/ \n()[]!#*_-~|:&;xaonjs\u202e0123", max_size=200))
def test_no_mixture_of_marks_makes_a_tag_that_is_not_ours(text):
    assert faults_in(rendered(text)) == []


def test_a_checker_that_finds_nothing_would_be_none():
    assert faults_in("<img src=x onerror=y>") == ["<img>", "<img src>", "<img onerror>"]
    assert faults_in('<a href="javascript:x">') == ["href=javascript:x"]


@pytest.mark.parametrize("name", SLOW)
def test_what_is_long_to_read_ends_within_its_time_and_shows_its_text(name):
    began = time.thread_time()
    html = rendered(SLOW[name])
    assert time.thread_time() - began < 5 * markdown.SECONDS
    assert len(html) > 4 and faults_in(html) == []


def test_what_takes_too_long_is_shown_as_it_stands(monkeypatch):
    monkeypatch.setattr(markdown, "SECONDS", -1.0)
    assert rendered("**tea** <b>") == plain("**tea** <b>")
    assert "**tea** &lt;b&gt;" in plain("**tea** <b>")


@pytest.mark.parametrize(
    "text", ["> " * 40 + "tea", "x" * (LINE + 1), "tea\n" * LONGEST, "*" * 3 + "> " * 200 + "tea"]
)
def test_what_is_too_deep_or_too_long_loses_no_word(text):
    words = rendered(text).count("tea") + rendered(text).count("x" * LINE)
    assert words == text.count("tea") + text.count("x" * LINE)


def test_characters_that_turn_the_direction_are_spelled_out_and_marks_are_kept():
    html = rendered("safe\u202egnp.exe \u200fبج")
    assert "\u202e" not in html and "[U+202E]" in html and "\u200fبج" in html
    assert '<p dir="auto">' in html


def test_code_in_a_block_that_is_not_over_is_code_already():
    growing = Growing()
    growing.add("Tea:\n\n```py\na = 1\n")
    over, rest = growing.show()
    assert over == '<p dir="auto">Tea:</p>\n'
    assert rest == '<pre dir="ltr" tabindex="0"><code class="language-py">a = 1\n</code></pre>\n'


DOCUMENT = (
    "# Tea\n\nWater, *then* leaves.\n\n- one\n\n  more of one\n- two\n\n```py\na\n\nb\n```\n\n"
    "Then\n\n> quoted\nlazy\n\n| a |\n|---|\n| 1 |\n\nEnd\n\n1. x\n\n2. y\n\nBye now\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_blocks_one_after_the_other_are_what_the_whole_is(size):
    growing, html = Growing(), ""
    for place in range(0, len(DOCUMENT), size):
        growing.add(DOCUMENT[place : place + size])
        over, rest = growing.show()
        html += over
    assert html + rest == rendered(DOCUMENT)


def test_a_list_or_a_fence_is_not_over_before_something_else_begins():
    assert settled("- a\n\n- b\n") == 0
    assert settled("```\na\n\nb\n\nc\n") == 0
    assert settled("- a\n\ntea\n") == len("- a\n\n")
