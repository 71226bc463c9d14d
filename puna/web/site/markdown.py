"""Markdown that strangers and models wrote, as HTML that can do nothing.

Two walls: markdown-it makes HTML without raw HTML, images and all but absolute web links, and nh3
lets only the tags through that are listed here. What would take long is shown as plain text.
"""

import re
import time
from collections.abc import Sequence
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

LONGEST = 200_000  # characters of a text that is formatted
LINE = 20_000  # characters of a line in it
DEEPEST = 24  # how deep quotes, lists and emphasis may be nested
SECONDS = 1.0  # of this thread's own time, for one text

WEB = re.compile(r"(?:https?://[^/]|mailto:[^/])", re.IGNORECASE)
LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,32}")
# Embeddings, overrides and isolates: they let a text read otherwise than it is. The marks that only
# say a direction (U+200E, U+200F, U+061C) stay, for languages that need them.
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")

BLOCKS = ("p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th")
TAGS = {
    *BLOCKS,
    *("a", "blockquote", "br", "code", "del", "em", "hr", "ol", "pre", "s", "strong"),
    *("table", "tbody", "thead", "tr", "ul"),
}
ATTRIBUTES = {
    "a": {"href", "title"},
    "ol": {"start"},
    "pre": {"dir", "tabindex"},
    "code": {"class"},
    "td": {"class"},
    "th": {"class"},
}
FIXED: dict[str, dict[str, str]] = {
    "a": {"target": "_blank"},
    "blockquote": {"dir": "auto"},
    **{tag: {"dir": "auto"} for tag in BLOCKS},
}


class _TooLong(Exception):
    """The time for this text is over."""


def rendered(text: str) -> str:
    """A text's Markdown as HTML that runs nothing, loads nothing and keeps its direction."""
    shown = visible(text)
    if len(shown) > LONGEST or max(map(len, shown.split("\n"))) > LINE:
        return plain(shown)
    try:
        made = _formatted(shown)
    except (_TooLong, RecursionError):
        return plain(shown)
    return _cleaned(made) if made is not None else plain(shown)


def plain(text: str) -> str:
    """A text as it stands, as HTML."""
    return f'<pre class="plain" dir="auto">{escape(visible(text))}</pre>'


def visible(text: str) -> str:
    """A text in which the characters that turn its direction are spelled out."""
    return TURNING.sub(lambda found: f"[U+{ord(found.group()):04X}]", text)


class Growing:
    """A text that is still written: the blocks that are over, and the one that still changes."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._text, self._done = "", 0

    def add(self, piece: str) -> None:
        """What came."""
        self._text += piece

    def show(self) -> tuple[str, str]:
        """HTML of the blocks that ended since the last time, and of what is not over."""
        end = self._done + settled(self._text[self._done :])
        over = rendered(self._text[self._done : end]) if end > self._done else ""
        self._done = end
        rest = self._text[end:]
        return over, rendered(rest) if rest.strip() else ""


FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
GOES_ON = re.compile(r"[ \t>|*+-]|[0-9]{1,9}[.)]")  # what may belong to the block before it


def settled(text: str) -> int:
    """How many characters make up whole blocks, whatever is written after them."""
    place = end = 0
    fence, blank = "", False
    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line[found.end() :].strip():
                fence, blank = "", False
        elif not line.strip():
            blank = True
        else:
            if blank and line.endswith("\n") and not GOES_ON.match(line):
                end = place
            blank, fence = False, found[1] if found else ""
        place += len(line)
    return end


def _formatted(text: str) -> str | None:
    """HTML by markdown-it; None where something is nested too deep to be shown as it is."""
    env: dict[str, Any] = {"until": time.thread_time() + SECONDS}
    tokens = MARKDOWN.parse(text, env)
    if any(token.level >= DEEPEST - 2 for token in tokens):
        return None
    return str(MARKDOWN.renderer.render(tokens, MARKDOWN.options, env))


def _cleaned(made: str) -> str:
    return nh3.clean(
        made,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values=FIXED,
        strip_comments=True,
    )


def _watch(state: StateBlock | StateInline, *rest: Any) -> bool:
    """A rule that never applies, and ends a text that takes too long."""
    if time.thread_time() > state.env["until"]:
        raise _TooLong
    return False


def _fence(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    language = (token.info.split() or [""])[0]
    name = f' class="language-{language}"' if LANGUAGE.fullmatch(language) else ""
    return f'<pre dir="ltr" tabindex="0"><code{name}>{escape(token.content)}</code></pre>\n'


def _image(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """An image is never fetched: its words stand for it."""
    return f"[image: {escape(tokens[index].content)}]"


def _cell(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A table's cell; its alignment is a class, as no style is let through."""
    token = tokens[index]
    side = str(token.attrGet("style") or "").removeprefix("text-align:")
    name = f' class="{side}"' if side in ("left", "center", "right") else ""
    return f"<{token.tag}{name}>"


def _reader() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST, "linkify": False})
    made.enable(["table", "strikethrough"])
    made.validateLink = lambda url: bool(WEB.match(url))  # type: ignore[method-assign]
    made.block.ruler.before("code", "watch", _watch)
    made.inline.ruler.before("text", "watch", _watch)
    rules = {"fence": _fence, "code_block": _fence, "image": _image}
    for name, rule in (rules | {"td_open": _cell, "th_open": _cell}).items():
        made.add_render_rule(name, rule)
    return made


MARKDOWN = _reader()
