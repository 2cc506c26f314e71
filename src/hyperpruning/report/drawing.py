"""What all figures share: their style and colours, and the way to an <svg> element.

Text stays text: searchable, in the fonts of the page. The colours are those of Okabe and Ito, which colour-blind
readers can tell apart.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, FAINT = "#1f2328", "#8a9099", "#c3c8ce"
COLOURS = {"ls": "#0072B2", "loss": "#C04F00"}
OTHER = "#57606a"  # of any other criterion; its lines are dashed
WIDTH = 4.8  # inches of 72 points each; the page shows two beside each other

STYLE: Any = {  # matplotlib's own type for it differs from version to version
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "hyperpruning",
    "text.parse_math": False,  # a "$" in a name is a "$"
}
DASHES = (0, (3.5, 1.8))


def colour(criteria: Sequence[str]) -> str:
    """The colour of a network that is the winner by these criteria: that of the first of them."""
    return COLOURS.get(criteria[0], OTHER) if criteria else SOFT


def new_axes(*, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure on a transparent ground, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def line_style(shade: str) -> Any:
    """Dashed for a criterion without a colour of its own."""
    return DASHES if shade == OTHER else "-"


def svg_of(figure: Figure, alt: str) -> str:
    """The figure as an <svg> element: scalable, with a description, without metadata."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None, "matplotlib writes a viewBox"
    label = html.escape(alt, quote=True)
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" role="img" aria-label="{label}"'
    return f"{head}>{body}"


def with_id_prefix(svg: str, prefix: str) -> str:
    """The same figure with a prefix before all its ids, so that several figures fit in one page."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return svg.replace("url(#", f"url(#{prefix}")
