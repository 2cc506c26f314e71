"""The page's building blocks: strings of HTML. What comes from outside is escaped here, and only here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from hyperpruning.report.figures import distinct

STYLE = """
:root { --ink: #1f2328; --soft: #57606a; --line: #d8dee4; --wash: #f6f8fa; --ls: #0072b2; --loss: #c04f00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 56px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 28px 0 6px; }
p, dl, ul { max-width: 74ch; margin: 0 0 14px; }
.lead { font-size: 1.15rem; margin: 18px 0 22px; }
.note, figcaption { color: var(--soft); font-size: .92rem; line-height: 1.5; }
.missing { border-left: 4px solid var(--line); background: var(--wash); padding: 10px 14px; }
h1 + .missing { margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 0 0 8px; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .9rem; }
.ls { color: var(--ls); } .loss { color: var(--loss); }
.scroll { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
.wide table { width: 100%; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
tr.ls td:first-child, tr.loss td:first-child { font-weight: 600; }
tr.ls td, tr.loss td { color: var(--ink); }
tr.ls td:first-child { color: var(--ls); } tr.loss td:first-child { color: var(--loss); }
.grid { display: grid; grid-template-columns: repeat(2, 1fr); gap: 22px 36px; align-items: start; }
.thirds { grid-template-columns: repeat(3, 1fr); gap: 22px 26px; }
.one { max-width: 640px; } .map { max-width: 780px; }
figure { margin: 0 0 10px; } figure h3 { margin-top: 0; }
figcaption { margin: 6px 0 22px; max-width: 82ch; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 24px; font-size: .92rem; max-width: none; }
.legend span { display: inline-flex; align-items: center; gap: 8px; } .legend i { width: 26px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif !important; }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; overflow-x: auto;
  font: .92rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0 0 16px; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; max-width: 100ch; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); margin-bottom: 8px; }
@media (max-width: 760px) {
  body { font-size: 16px; } main { padding: 22px 16px 60px; } h1 { font-size: 1.55rem; } h2 { margin-top: 40px; }
  .grid { grid-template-columns: 1fr; } .tiles { grid-template-columns: 1fr 1fr; }
  .map svg { min-width: 540px; }
  dl { display: block; } dd { margin: 0 0 9px; }
  .cards thead { display: none; } .cards tr { display: block; padding: 10px 0; border-bottom: 1px solid var(--line); }
  .cards td { display: flex; justify-content: space-between; gap: 20px; border: 0; padding: 2px 0; text-align: right;
    white-space: normal; }
  .cards td::before { content: attr(data-label); color: var(--soft); font-weight: 400; text-align: left; }
  .cards td:empty { display: none; }
}
@media print { main { max-width: none; padding: 0; } h2, figure { break-inside: avoid; } }
"""


def escape(text: object) -> str:
    """Text as HTML shows it; "f = 0.5" and "80 %" stay on one line."""
    return html.escape(str(text), quote=True).replace(" = ", "&nbsp;=&nbsp;").replace(" %", "&nbsp;%")


def document(title: str, body: Iterable[str]) -> str:
    """A whole page, which needs nothing but itself."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{_numbered(''.join(body))}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; kinds are "lead", "note" and "missing"."""
    return f'<p class="{kind}">{escape(text)}</p>\n'


def missing(text: str) -> str:
    """What is not there yet, and when it will be."""
    return paragraph(text, "missing")


def code(text: str) -> str:
    """A block of code."""
    return f"<pre><code>{html.escape(text)}</code></pre>\n"


def definitions(pairs: Mapping[str, str]) -> str:
    """Terms and what they are."""
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in pairs.items())}</dl>\n"


def tiles(numbers: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (value, what it is, "ls", "loss" or "")."""
    each = (
        f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for value, what, kind in numbers
    )
    return f'<div class="tiles">{"".join(each)}</div>\n'


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: int = 1,
    kinds: Sequence[str] = (),
    bold: frozenset[tuple[int, int]] = frozenset(),
    cards: bool = False,
) -> str:
    """A table.

    Args:
        headings: of the columns.
        rows: of cells.
        text: the first columns that hold text; the others hold numbers.
        kinds: a CSS class for each row.
        bold: (row, column) of cells that stand out.
        cards: on a phone every row becomes a card, instead of a table to scroll.
    """
    numeric = [' class="number"' if column >= text else "" for column in range(len(headings))]
    head = "".join(f"<th{kind}>{escape(heading)}</th>" for heading, kind in zip(headings, numeric, strict=True))
    lines = []
    for number, row in enumerate(rows):
        shown = [
            f"<b>{escape(cell)}</b>" if (number, place) in bold else escape(cell) for place, cell in enumerate(row)
        ]
        cells = zip(shown, headings, numeric, strict=True)
        line = "".join(f'<td{kind} data-label="{escape(heading)}">{cell}</td>' for cell, heading, kind in cells)
        lines.append(f'<tr class="{kinds[number] if kinds else ""}">{line}</tr>\n')
    shape = "scroll wide cards" if cards else "scroll"
    content = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody>"
    return f'<div class="{shape}"><table>\n{content}</table></div>\n'


def figure(*panels: str, caption: str, layout: str = "") -> str:
    """Figures beside each other (above each other on a phone) with one caption.

    Args:
        panels: <svg> elements, see `panel`.
        caption: says in plain words what one sees.
        layout: "grid", "grid thirds", "one" or "map"; by the number of panels when left out.
    """
    layout = layout or {1: "one", 3: "grid thirds"}.get(len(panels), "grid")
    return f'<figure><div class="{layout}">{"".join(panels)}</div><figcaption>{escape(caption)}</figcaption></figure>\n'


def legend(lines: Mapping[str, tuple[str, bool]]) -> str:
    """What lines stand for: label -> (colour, dashed)."""
    swatch = '<span><i style="border-top: 3px {} {}"></i>{}</span>'
    items = [
        swatch.format("dashed" if dashed else "solid", colour, escape(label))
        for label, (colour, dashed) in lines.items()
    ]
    return f'<p class="legend">{"".join(items)}</p>\n'


def panel(svg: str, title: str = "", kind: str = "") -> str:
    """One figure under a title, in a judge's colour."""
    heading = f'<h3 class="{kind}">{escape(title)}</h3>' if title else ""
    return f'<div class="scroll">{heading}{svg}</div>'


def details(summary: str, content: str) -> str:
    """What is folded away until one asks for it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"


def _numbered(body: str) -> str:
    """Every figure's ids under a prefix of its own."""
    parts, numbers = body.split("<svg"), count(1)
    found = [parts[0]]
    for part in parts[1:]:
        svg, rest = part.split("</svg>", 1)
        found.append(f"{distinct('<svg' + svg, f'f{next(numbers)}')}</svg>{rest}")
    return "".join(found)
