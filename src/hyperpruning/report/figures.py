"""The figures of the page: each function takes numbers and returns an <svg> element that scales to any width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from hyperpruning.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    OTHER,
    SOFT,
    STYLE,
    WIDTH,
    colour,
    line_style,
    new_axes,
    svg_of,
)
from hyperpruning.report.series import Densities, Line, Scatter, Vector, finite, placed_labels
from hyperpruning.report.tradeoffs import Tradeoff
from hyperpruning.search.history import DENSE

EPOCH_COLOURS = LinearSegmentedColormap.from_list("epoch", ["#c6dbe8", "#5aa2cc", "#0072B2", "#062f4f"])
"""Early to late: light to dark blue."""
DENSITY_COLOURS = LinearSegmentedColormap.from_list("density", ["#f3f7fa", "#a9cde4", "#3f8bbb", "#0b4a75"])
"""Low to high: nearly white to dark blue."""


def bracket(lines: Sequence[Line], *, criterion: str, rungs: Sequence[int], epochs: int, width: float = WIDTH) -> str:
    """Draw how long each candidate trains if one criterion selects; the total length of the lines is the cost."""
    accent = COLOURS.get(criterion, OTHER)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=0.8 + 0.19 * max(len(lines), 3), width=width)
        for rung in rungs:
            axes.axvline(rung, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        for row, line in enumerate(lines):
            stays = line.outcome in ("chosen", "finalist", "in")
            strength = 3.2 if line.outcome == "chosen" else 1.6
            axes.plot([0, line.until], [row, row], color=accent if stays else SOFT, linewidth=strength)
            end = {"out": "|", "failed": "x"}.get(line.outcome, "o")
            axes.plot(line.until, row, end, color=accent if stays else SOFT, markersize=6 if stays else 5)
            if line.final is not None:
                bold = "bold" if line.outcome == "chosen" else "normal"
                axes.annotate(
                    f"{line.final:.2f}", (line.until, row), (8, 0), textcoords="offset points", va="center", weight=bold
                )
        axes.set_yticks(range(len(lines)), [line.network for line in lines], fontsize=9)
        axes.set_ylim(len(lines) - 0.4, -0.8)
        axes.set_xlim(0, epochs * 1.02)
        axes.set_xticks(_apart([0, *rungs, epochs]))
        axes.set_xlabel("epochs trained")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return svg_of(
            figure, f"Elimination of {len(lines)} candidates over {epochs} epochs, with rungs at {_list(rungs)}."
        )


def curves(
    others: Sequence[tuple[Sequence[int], Sequence[float]]],
    marked: Sequence[tuple[Sequence[int], Sequence[float], str]],
    *,
    first: int,
    last: int,
    rungs: Sequence[int],
    low: float,
    top: float,
    ylabel: str,
    averaging: Sequence[int] = (),
) -> str:
    """Draw a metric over the epochs: the others in grey, the marked ones in their colours on top.

    The horizontal axis shows the epochs from `first` to `last`, the vertical axis the values from `low` to `top`. The
    epochs after which the weights are averaged (`averaging`) are marked.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.7)
        for rung in rungs:
            axes.axvline(rung, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        for epochs, values in others:
            axes.plot(epochs, values, color=FAINT, linewidth=1)
        dots: Any = {"marker": "o", "markersize": 3} if last - first <= 20 else {}
        for epochs, values, shade in marked:
            axes.plot(epochs, values, color=shade, linewidth=2, linestyle=line_style(shade), **dots)
        axes.set_ylim(low - 0.05 * (top - low), top)
        _whole_epochs(axes, first, last)
        _mark_averaging(axes, [epoch for epoch in averaging if first <= epoch < last], (first + last) / 2)
        axes.set_xlabel("epoch")
        axes.set_ylabel(ylabel)
        return svg_of(figure, f"{ylabel} over the epochs of {len(others) + len(marked)} networks.")


def _mark_averaging(axes: Axes, epochs: Sequence[int], middle: float) -> None:
    """Mark the epochs in which averaging begins: a band from the last epoch without it to the first one with it."""
    for number, epoch in enumerate(epochs):
        axes.axvspan(epoch, epoch + 1, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
        if not number:
            x, side = (epoch, "right") if epoch >= middle else (epoch + 1, "left")
            place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": side, "va": "top"}
            axes.annotate(
                "averaging begins", (x, 1), (-5 if side == "right" else 5, -2), color=SOFT, fontsize=9, **place
            )


def dense_spectra(spectra: Mapping[int, Vector], *, low: float, width: float = WIDTH) -> str:
    """Draw the sorted exponents of one network, coloured by epoch (Figure 1 of the paper)."""
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.5, width=width)
        shown = {epoch: values[values >= low] for epoch, values in spectra.items()}
        lines = LineCollection(
            [np.column_stack([np.arange(1, len(values) + 1), values]) for values in shown.values()],
            array=list(spectra),
            cmap=EPOCH_COLOURS,
            linewidths=1.4,
        )
        axes.add_collection(lines)
        ends = [(len(values), values[-1], epoch) for epoch, values in shown.items() if _ends(spectra[epoch], values)]
        if ends:
            x, y, epochs = zip(*ends, strict=True)
            axes.scatter(x, y, c=epochs, cmap=EPOCH_COLOURS, vmin=min(spectra), vmax=max(spectra), marker="v", s=20)
        bar = figure.colorbar(lines, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("epoch")
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        _exponent_axes(axes, list(spectra.values()), low)
        return svg_of(figure, f"Sorted Lyapunov exponents of the dense reference at {len(spectra)} epochs.")


def candidate_spectra(
    epoch: int,
    dense: Vector,
    others: Sequence[Vector],
    marked: Sequence[tuple[Vector, str]],
    *,
    low: float,
    width: float = WIDTH,
) -> str:
    """Draw the sorted exponents of the candidates and of the dense reference after one epoch."""
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.5, width=width)
        drawn = [(values, FAINT, 0.9) for values in others]
        drawn += [(values, shade, 1.8) for values, shade in marked]
        for values, shade, width in [*drawn, (dense, INK, 1.8)]:
            shown = values[values >= low]
            axes.plot(range(1, len(shown) + 1), shown, color=shade, linewidth=width, linestyle=line_style(shade))
            if _ends(values, shown):
                axes.plot(len(shown), shown[-1], "v", color=SOFT if shade == FAINT else shade, markersize=5.5, mew=0)
        _exponent_axes(axes, [dense, *others], low)
        return svg_of(
            figure,
            f"Sorted exponents of {len(others) + len(marked)} candidates and the dense reference, epoch {epoch}.",
        )


def _ends(values: Vector, shown: Vector) -> bool:
    """Whether a curve ends in -inf after the exponents that are shown."""
    return bool(shown.size and np.isneginf(values).any())


def scatter(points: Scatter, winners: Mapping[str, Sequence[str]], *, xlabel: str, ylabel: str) -> str:
    """Draw early against final values of the candidates; the winners (by network, their criteria) are coloured.

    Infinite values are not drawn.
    """
    points = finite(points)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.5)
        axes.margins(0.12)
        dots = zip(points.networks, points.early, points.final, strict=True)
        for name, early, final in sorted(dots, key=lambda dot: dot[0] in winners):  # the winners on top
            size = 8 if name in winners else 5.5
            axes.plot(early, final, "o", color=colour(winners.get(name, ())), markersize=size, mew=0)
        for name, (x, y), side in placed_labels(points, set(winners)):
            weight, shade = ("bold", INK) if name in winners else ("normal", SOFT)
            place: Any = {"ha": "left" if side[0] > 0 else "right", "va": "center", "textcoords": "offset points"}
            axes.annotate(name, (x, y), (6 * side[0], 6 * side[1]), fontsize=8, weight=weight, color=shade, **place)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        return svg_of(figure, f"{xlabel} against {ylabel} of {len(points.networks)} candidates.")


def tradeoffs(rows: Sequence[Tradeoff], winners: Mapping[str, Sequence[str]], *, cost: str, xlabel: str) -> str:
    """Draw the validation loss of the finished networks against a cost, with the Pareto frontier as steps.

    Args:
        rows: of the Pareto view; those with an infinite loss or without this cost are not drawn.
        winners: by network, their criteria.
        cost: a field of `Tradeoff`.
        xlabel: its name.
    """
    drawn = [row for row in rows if math.isfinite(row.loss) and getattr(row, cost) is not None]
    x, y = [float(getattr(row, cost)) for row in drawn], [row.loss for row in drawn]
    on = sorted((at, loss) for row, at, loss in zip(drawn, x, y, strict=True) if cost in row.frontier)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.5)
        axes.margins(0.25, 0.12)  # names stand on both sides
        axes.step([at for at, _ in on], [loss for _, loss in on], where="post", color=SOFT, linewidth=1.2, zorder=1)
        for row, at, loss in zip(drawn, x, y, strict=True):
            shade = INK if row.network == DENSE else colour(winners.get(row.network, ()))
            axes.plot(at, loss, "o", color=shade, markersize=8 if cost in row.frontier else 5.5, mew=0)
        points = Scatter(0, tuple(row.label for row in drawn), tuple(x), tuple(y), None)
        marked = {row.label for row in drawn if cost in row.frontier}
        for label, place, side in placed_labels(points, marked):
            weight, shade = ("bold", INK) if label in marked else ("normal", SOFT)
            options: Any = {"ha": "left" if side[0] > 0 else "right", "va": "center", "textcoords": "offset points"}
            axes.annotate(label, place, (6 * side[0], 6 * side[1]), fontsize=8, weight=weight, color=shade, **options)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_xlabel(xlabel)
        axes.set_ylabel("validation loss, nats")
        return svg_of(figure, f"Validation loss against {xlabel} of {len(drawn)} networks; {len(on)} on the frontier.")


def spectra_figure(spectra: Mapping[str, Sequence[float]], errors: Mapping[str, Sequence[float]]) -> Figure:
    """A figure of the sorted exponents of one or more networks, to be saved in any format of matplotlib.

    Args:
        spectra: name -> (K,) exponents in nats per step, in any order; -inf is not drawn, its number is in the legend.
        errors: name -> (K,) their standard errors; the figure shows a band of two of them above and below.
    """
    shades = [INK, COLOURS["ls"], COLOURS["loss"], "#009E73", "#CC79A7", "#E69F00"]
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=3.7)
        drawn = []
        for number, (name, exponents) in enumerate(spectra.items()):
            values, error = np.asarray(exponents, dtype=float), 2 * np.asarray(errors[name], dtype=float)
            order = np.argsort(-values, kind="stable")[: np.isfinite(values).sum()]
            index, shown, shade = range(1, len(order) + 1), values[order], shades[number % len(shades)]
            lost = len(values) - len(order)
            label = f"{name} ({lost} of {len(values)} are -∞)" if lost else name
            axes.plot(index, shown, color=shade, linewidth=1.6, label=label)
            axes.fill_between(index, shown - error[order], shown + error[order], color=shade, alpha=0.2, linewidth=0)
            drawn.append(np.sort(values)[::-1])
        _exponent_axes(axes, drawn, min((float(v[np.isfinite(v)].min(initial=0)) for v in drawn), default=-1.0))
        axes.legend(loc="lower left", title="band: two standard errors", title_fontsize="small")
        figure.draw_without_rendering()  # the layout is made in this style
    return figure


def densities(found: Densities) -> str:
    """Draw the active fraction of each tensor and gate over the epochs as a heat map with numbers."""
    rows, count = len(found.rows), len(found.epochs)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(height=0.9 + 0.27 * rows, width=1.35 * WIDTH)
        mesh = axes.pcolormesh(found.values, cmap=DENSITY_COLOURS, vmin=0, vmax=max(0.01, float(found.values.max())))
        mesh.set(edgecolor="white", linewidth=0.6)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.035, pad=0.02)
        bar.set_label("density")
        bar.outline.set_visible(False)
        for row in range(rows):
            for column in range(count):
                value = float(found.values[row, column])
                shade = "white" if value > 0.58 * float(found.values.max()) else INK
                place: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": shade}
                axes.text(column + 0.5, row + 0.5, f"{value:.2f}", **place)
        axes.set_yticks([row + 0.5 for row in range(rows)], found.rows, fontsize=9)
        axes.set_xticks([column + 0.5 for column in range(count)], [str(epoch) for epoch in found.epochs])
        axes.set_ylim(rows, 0)
        axes.set_xlabel("epoch")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return svg_of(figure, f"Density of {rows} gates and tensors over {count} epochs.")


def _whole_epochs(axes: Axes, first: int, last: int) -> None:
    axes.set_xlim(first - 0.2, last + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _apart(ticks: Sequence[int]) -> list[int]:
    """Ticks with enough space for their numbers, always including the first and the last."""
    gap, kept = 0.055 * (ticks[-1] - ticks[0]), [ticks[0]]
    for tick in ticks[1:-1]:
        if tick - kept[-1] >= gap and ticks[-1] - tick >= gap:
            kept.append(tick)
    return [*kept, ticks[-1]]


def _exponent_axes(axes: Axes, spectra: Sequence[Vector], low: float) -> None:
    top = max((float(values[0]) for values in spectra if values.size and np.isfinite(values[0])), default=0.0)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_ylim(low - 0.03 * (top - low), max(top, 0) + 0.05 * (top - low))
    axes.set_xlim(0, max((len(values) for values in spectra), default=1) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index, largest exponent first")
    axes.set_ylabel("Lyapunov exponent, nats per step")


def _list(values: Sequence[int]) -> str:
    return "epochs " + ", ".join(map(str, values)) if len(values) > 1 else f"epoch {values[0]}"
