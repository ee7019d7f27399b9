"""Pages: blocks of text, tables and pictures, as one self-contained HTML file or as Markdown."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b636d; --line: #d9dee4; --paper: #ffffff; --tint: #f5f7f9;
  --alarm: #fdf0e3; --edge: #d9822b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa3ad; --line: #353b42; --paper: #16191d; --tint: #1f2429; --alarm: #3a2a18 }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px;
  margin: 2.5rem auto; padding: 0 1.25rem }
body.wide { max-width: 1080px }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin: 2rem 0 0.6rem }
h3 { font-size: 0.98rem; margin: 1.3rem 0 0.4rem; color: var(--soft) }
p.lead, p.soft { color: var(--soft); margin-top: 0; overflow-wrap: anywhere }
p.alarm { background: var(--alarm); border-left: 4px solid var(--edge); border-radius: 4px; padding: 0.6rem 0.9rem }
li { margin: 0.35rem 0; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.75rem }
.card { background: var(--tint); border-radius: 8px; padding: 0.8rem 1rem }
.card { overflow-wrap: anywhere } .card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.card span { color: var(--soft) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums }
td, th { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top }
table.figures { font-size: 0.86rem; margin: 0.4rem 0 0.8rem } .figures td:first-child { max-width: 16rem }
.figures td:not(:first-child):not(:last-child) { white-space: nowrap }
td:first-child { color: var(--soft); white-space: nowrap }
.figures td:first-child, .prose td:first-child { white-space: normal; overflow-wrap: break-word; color: var(--ink) }
tr.marked td { background: var(--alarm) } tr.marked td:first-child { box-shadow: inset 4px 0 var(--edge) }
pre { background: var(--tint); border-radius: 8px; padding: 0.9rem 1.1rem; white-space: pre-wrap; font: 0.92rem/1.5
  ui-serif, Georgia, serif; overflow-wrap: anywhere }
pre.code { font: 0.86rem/1.5 ui-monospace, monospace }
img { width: 100%; background: white; border-radius: 8px } details { margin-top: 0.6rem }
summary { cursor: pointer } code { font-size: 0.9em }
"""


class Block(Protocol):
    """A piece of a page; both forms say the same."""

    def html(self) -> str: ...

    def markdown(self) -> str: ...


@dataclass(frozen=True)
class Heading:
    """level 2 opens a section, 3 a part of it."""

    text: str
    level: int = 2

    def html(self) -> str:
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"

    def markdown(self) -> str:
        return f"{'#' * self.level} {escape_markdown(self.text)}"


@dataclass(frozen=True)
class Text:
    """A paragraph. look: "" plain, "soft" a remark, "alarm" what must not be overlooked."""

    text: str
    look: str = ""

    def html(self) -> str:
        look = f' class="{self.look}"' if self.look else ""
        return f"<p{look}>{html.escape(self.text)}</p>"

    def markdown(self) -> str:
        text = escape_markdown(self.text)
        return f"> **{text}**" if self.look == "alarm" else text


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]

    def html(self) -> str:
        return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in self.items)}</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {escape_markdown(item)}" for item in self.items)


@dataclass(frozen=True)
class Figures:
    """A table; the rows whose numbers are in `marked` stand out. look: "figures" for numbers, "prose" for sentences."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    look: str = "figures"

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.head)
        rows = []
        for i, row in enumerate(self.rows):
            mark = ' class="marked"' if i in self.marked else ""
            rows.append(f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>")
        return f'<div class="scroll"><table class="{self.look}"><tr>{head}</tr>{"".join(rows)}</table></div>'

    def markdown(self) -> str:
        lines = [list(map(escape_markdown, self.head)), ["---"] * len(self.head)]
        for i, row in enumerate(self.rows):
            cells = [escape_markdown(cell) for cell in row]
            lines.append([f"**{cell}**" if cell else "" for cell in cells] if i in self.marked else cells)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Picture:
    """An image file, which lies beside the Markdown and inside the HTML; nothing where the file is missing."""

    path: Path
    alt: str

    def html(self) -> str:
        return picture(self.path, self.alt)

    def markdown(self) -> str:
        return f"![{escape_markdown(self.alt)}]({self.path.name})" if self.path.exists() else ""


@dataclass(frozen=True)
class Code:
    """A command or a listing, word for word."""

    text: str

    def html(self) -> str:
        return f'<pre class="code">{html.escape(self.text)}</pre>'

    def markdown(self) -> str:
        return "\n".join(f"    {line}" for line in self.text.splitlines())


@dataclass(frozen=True)
class Cards:
    """The few figures to see first: (label, value)."""

    cards: Sequence[tuple[str, str]]

    def html(self) -> str:
        return cards(self.cards)

    def markdown(self) -> str:
        return "\n".join(f"- {escape_markdown(label)}: {escape_markdown(value)}" for label, value in self.cards)


@dataclass(frozen=True)
class Fold:
    """What only some readers open."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        return f"<details><summary>{html.escape(self.title)}</summary>{_html(self.blocks)}</details>"

    def markdown(self) -> str:
        return f"#### {escape_markdown(self.title)}\n\n{_markdown(self.blocks)}"


def html_page(title: str, lead: str, blocks: Sequence[Block], look: str = "wide") -> str:
    return document(title, lead, _html(blocks), look)


def markdown_page(title: str, lead: str, blocks: Sequence[Block]) -> str:
    return f"# {escape_markdown(title)}\n\n{escape_markdown(lead)}\n\n{_markdown(blocks)}\n"


def document(title: str, lead: str, body: str, look: str = "") -> str:
    """A whole HTML page around `body`, which must be HTML already; title and lead are plain text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body{f' class="{look}"' if look else ""}>
<h1>{html.escape(title)}</h1>
<p class="lead">{html.escape(lead)}</p>
{body}
</body></html>
"""


def cards(values: Sequence[tuple[str, str]]) -> str:
    """(label, value) of every card, as HTML."""
    each = (f'<div class="card"><b>{html.escape(v)}</b><span>{html.escape(label)}</span></div>' for label, v in values)
    return f'<div class="cards">{"".join(each)}</div>'


def picture(path: Path, alt: str) -> str:
    """An image inside the page, as HTML; "" where the file is missing."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def escape_markdown(text: str) -> str:
    """Plain text that Markdown (and HTML inside it) shows as it is, on one line."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~#])", r"\\\1", plain)


def _html(blocks: Sequence[Block]) -> str:
    return "\n".join(block.html() for block in blocks)


def _markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(text for text in (block.markdown() for block in blocks) if text)
