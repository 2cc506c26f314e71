"""The figures of the evidence in docs/results.md: from evidence.json, frontier.json and the tables themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import hyperpruning as hp
from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.ranking import spearman
from hyperpruning.search.tables import Table

DOCS = Path(__file__).parent.parent / "docs"
JUDGES = {
    "loss": "loss",
    "averaged_loss": "loss, averaged weights",
    "ls": "LS distance (l2, as published)",
    "conditional_ls": "LS, freed of the other settings",
    "averaged_ls": "LS of averaged weights",
    "ls_end": "LS, to the dense network's end",
    "rank_sum": "rank sum of LS and loss",
    "blend": "blend",
    "drop_fraction": "drop fraction",
}
DRAWN = ("loss", "averaged_loss", "conditional_ls", "drop_fraction")
RULES = ("loss", "averaged_loss", "ls", "blend", "calibrated", "surrogate", "config_surrogate")
Tables = Mapping[str, Mapping[str, Any]]


def save(figure: Figure, name: str) -> None:
    """Write a figure to docs/NAME.png, without the version that would change the file."""
    figure.savefig(DOCS / f"{name}.png", dpi=110, metadata={"Software": None})


def readable(axis: Axes, ticks: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as numbers."""
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def grid(count: int, columns: int = 3, height: float = 2.6, **options: Any) -> tuple[Figure, Any]:
    """A figure with `count` axes in rows of three; the rest is empty."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(10, height * rows), layout="constrained")
    axes = figure.subplots(rows, min(columns, count), squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def draw_judges(tables: Tables) -> None:
    """Correlation with the end over the training."""
    figure, axes = grid(len(tables), sharey=True)
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        epochs = sorted(map(int, table["correlations"]))
        for judge in DRAWN:
            values = np.array([table["correlations"][str(epoch)][judge] for epoch in epochs])
            fractions = 100 * np.array(epochs) / table["facts"]["epochs"]
            axis.plot(fractions, values[:, 0], label=JUDGES[judge])
            axis.fill_between(fractions, values[:, 1], values[:, 2], alpha=0.15)
        axis.axhline(0, color="0.7", lw=0.8)
        axis.set(title=name, xscale="log", xlabel="% of the training")
        readable(axis, (2.5, 5, 10, 20, 50))
    for row in axes:
        row[0].set_ylabel("Spearman with the end")
    axes[0, 0].legend(fontsize=7)
    save(figure, "evidence_judges")


def draw_regret(tables: Tables) -> None:
    """Regret against epochs, means over the tables."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for rule in RULES:
        points = []
        for schedule, found in next(iter(tables.values()))["searches"].items():
            if rule not in found:
                continue
            each = [(t["searches"][schedule][rule], 24 * t["facts"]["epochs"]) for t in tables.values()]
            share = 100 * float(np.mean([found["epochs"] / pool for found, pool in each]))
            points.append((share, float(np.mean([found["regret"][0] for found, _ in each]))))
        axis.plot(*zip(*points, strict=True), "o", ms=5, alpha=0.8, label=rule)
    random = [(int(k), [t["facts"]["random"][k][0] for t in tables.values()]) for k in ("1", "2", "3", "6", "12")]
    axis.plot(
        [100 * k / 24 for k, _ in random], [float(np.mean(v)) for _, v in random], "k--", label="random, to the end"
    )
    axis.set(xlabel="epochs, in % of training all 24", ylabel="regret, mean over the tables", xscale="log", ylim=(0, 1))
    readable(axis, (4, 8, 12, 16, 25, 50))
    axis.legend(fontsize=8)
    save(figure, "evidence_regret")


def _thirds(table: Table) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of the best, the middle and the worst third of the pool."""
    order = np.argsort(table.mean_final)[: int(np.isfinite(table.mean_final).sum())]
    return dict(zip(("best third", "middle third", "worst third"), np.array_split(order, 3), strict=True))


def distances_of(table: Table, number: int) -> np.ndarray[Any, Any]:
    """The l2 distance of each candidate's spectrum to that of the dense network, as the search computes it."""
    dense = list(map(float, table.spectra[-1, number]))
    return np.array([spectrum_distance(list(map(float, one)), dense) for one in table.spectra[:-1, number]])


def draw_training(table: Table) -> None:
    """The paper's Figure 1: spectra, distances and losses over the training, of one pool."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    spectra, distances, losses = figure.subplots(1, 3)
    shown = [epoch for epoch in (0, 3, 10, 80) if epoch in table.spectrum_epochs]
    for epoch in shown:
        number, color = table.spectrum_epochs.index(epoch), f"C{shown.index(epoch)}"
        for row, style in ((-1, "-"), (int(np.argmin(table.mean_final)), "--")):
            exponents = np.sort(table.spectra[row, number])[::-1]
            spectra.plot(exponents, style, color=color, lw=1, label=f"epoch {epoch}" if row == -1 else None)
    spectra.set(title="dense; best pruned (dashed)", xlabel="index", ylabel="exponent, nats a step")
    spectra.legend(fontsize=7)
    apart = np.array([distances_of(table, number) for number in range(len(table.spectrum_epochs))]).T
    for number, (label, rows) in enumerate(_thirds(table).items()):
        color = f"C{number}"
        distances.plot(table.spectrum_epochs, np.nanmedian(apart[rows], axis=0), color=color, label=label)
        losses.plot(table.valid[rows].mean(0), color=color)
    losses.plot(table.valid[-1], "k", lw=1, label="dense")
    distances.set(title="distance to the dense spectrum", xlabel="epoch", ylabel="l2, median, nats a step")
    low = float(np.nanmin(table.valid))
    high = float(np.nanquantile(table.valid[:, 2:], 0.98))
    losses.set(title="validation loss", xlabel="epoch", ylim=(low - 0.02, high))
    distances.legend(fontsize=7)
    losses.legend(fontsize=7)
    save(figure, "evidence_training")


def draw_scatter(tables: Sequence[Table]) -> None:
    """Early values against the final loss, at the recorded epoch nearest to 5 % of the training."""
    figure, axes = grid(2 * len(tables), columns=4, height=2.5)
    for table, pair in zip(tables, axes.reshape(-1, 2), strict=False):
        epoch = min((e for e in table.spectrum_epochs if e), key=lambda e, t=table: abs(e - 0.05 * t.epochs))  # type: ignore[misc]
        number = table.spectrum_epochs.index(epoch)
        early = {
            "distance": distances_of(table, number),
            "loss": table.averaged[:-1, epoch],
        }
        for axis, (label, values) in zip(pair, early.items(), strict=True):
            known = np.isfinite(table.mean_final) & np.isfinite(values)
            final = table.mean_final[known]
            rho = spearman(values[known].tolist(), final.tolist())
            axis.plot(values[known], final, "o", ms=2.5, alpha=0.7, color="C0" if label == "loss" else "C2")
            axis.set_ylim(final.min() - 0.03 * np.ptp(final), np.quantile(final, 0.95))
            axis.set_title(f"{table.name}: {label}, epoch {epoch}, {rho or 0:.2f}", fontsize=7)
            axis.tick_params(labelsize=6)
    save(figure, "evidence_scatter")


def draw_components(tables: Sequence[Table]) -> None:
    """The two principal components of the spectra over the training; color is the final rank in the pool."""
    figure, axes = grid(len(tables), height=3)
    for axis, table in zip(axes.flat, tables, strict=False):
        ordered = np.sort(table.spectra.astype(float), axis=2)
        known = np.isfinite(ordered).all((1, 2))
        known[:-1] &= np.isfinite(table.mean_final)
        rows = ordered[known]
        flat = rows.reshape(-1, rows.shape[2])
        _, scale, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        places = (rows - flat.mean(0)) @ directions[:2].T
        rank = np.argsort(np.argsort(table.mean_final[known[:-1]]))
        for place, share in zip(places[:-1], rank / (len(rank) - 1), strict=True):
            axis.plot(*place.T, lw=0.5, color=(share, 0.2, 1 - share), alpha=0.5)
        axis.plot(*places[-1].T, "k.-", lw=1.2, ms=3, label="dense")
        explained = scale[:2] ** 2 / (scale**2).sum()
        axis.set_title(table.name, fontsize=9)
        axis.set(xlabel=f"component 1 ({explained[0]:.0%})", ylabel=f"component 2 ({explained[1]:.0%})")
    axes[0, 0].legend(fontsize=7)
    save(figure, "evidence_components")


def draw_frontier(found: Mapping[str, Any]) -> None:
    """Test metric against active weights."""
    figure, axes = grid(len(found), height=3.2)
    for axis, (task, one) in zip(axes.flat, found.items(), strict=False):
        by_sparsity = one["networks"]
        dense = [by_sparsity[key][kind] for key in by_sparsity for kind in ("dense", "narrower")]
        curves = {"dense": dense} | {
            kind: [by_sparsity[key][kind] for key in by_sparsity]
            for kind in ("searched", "gmp", "rigl-erk, fan_in", "rigl-erk", "static")
        }
        for number, (kind, points) in enumerate(curves.items()):
            means = sorted((float(np.mean([p[0] for p in each])), *_mean_range(each)) for each in points)
            x, mean, low, high = np.array(means).T
            style = {"color": "k"} if kind == "dense" else {"color": f"C{number - 1}"}
            axis.errorbar(x, mean, (mean - low, high - mean), marker="o", ms=3, lw=1, capsize=2, label=kind, **style)
        axis.set(title=task, xscale="log", xlabel="active weights", ylabel=f"test {one['metric']}")
        axis.xaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:,.0f}", minor_locator=NullLocator()
        )
    axes[0, 0].legend(fontsize=7)
    save(figure, "evidence_frontier")


def _mean_range(points: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    values = [point[2] for point in points]
    return float(np.mean(values)), min(values), max(values)


def draw(tables: Tables, paths: Sequence[Path], frontier: Mapping[str, Any]) -> None:
    """All figures."""
    loaded = [hp.load_table(path) for path in paths]
    draw_judges(tables)
    draw_regret(tables)
    draw_training(max(loaded, key=lambda table: (table.epochs, table.name == "lm-long")))
    draw_scatter(loaded)
    draw_components(loaded)
    if frontier:
        draw_frontier(frontier)
