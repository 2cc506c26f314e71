"""The marked parts of docs/results.md, and its figures, from benchmarks/results/evidence.json.

Every sentence here that has a number takes it from the json; tests/test_evidence.py compares the page with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hyperpruning.lyapunov.distances import DISTANCES

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
LOOKS = (0.025, 0.1, 0.2)  # fractions of the training
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
ADDS = {
    "given the drop fraction": "LS given the drop fraction",
    "given the averaged loss": "LS given the averaged loss",
    "settings": "settings alone (left-out ridge)",
    "settings and loss": "settings + averaged loss",
    "settings, loss and spectrum": "settings + averaged loss + LS",
}
Tables = Mapping[str, Mapping[str, Any]]


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def two(value: float | None) -> str:
    """Two digits without the zero before the point, as correlations and regrets are written."""
    if value is None:
        return ""
    text = f"{value:.2f}".replace("-0.", "-.")
    return "0" if text in ("-.00", "0.00") else text.removeprefix("0")


def with_interval(value: Sequence[float]) -> str:
    """A mean and its interval."""
    return f"{two(value[0])} ({two(value[1])}, {two(value[2])})"


def looks(table: Mapping[str, Any]) -> list[str]:
    """The recorded epochs nearest to the looks, without repeats."""
    epochs, whole = sorted(map(int, table["correlations"])), table["facts"]["epochs"]
    nearest = [min(epochs, key=lambda epoch, f=fraction: abs(epoch - f * whole)) for fraction in LOOKS]  # type: ignore[misc]
    return [str(epoch) for epoch in dict.fromkeys(nearest)]


def settings(tables: Tables) -> str:
    """The pools."""
    rows = []
    for name, table in tables.items():
        f = table["facts"]
        losses = [f"{f[key]:.3f}" for key in ("best", "median", "worst decile", "dense")]
        counts = [str(f["candidates"]), str(f["failed"]), str(f["seeds"]), str(f["epochs"])]
        rows.append([name, *counts, *losses, two(f["noise"])])
    head = ["table", "candidates", "failed", "seeds", "epochs", "best", "median", "worst decile", "dense", "noise"]
    return table_of(head, rows)


def judged(tables: Tables, judges: Mapping[str, str]) -> str:
    """Correlations at the looks, table by table."""
    parts = []
    for name, table in tables.items():
        epochs = looks(table)
        rows = [
            [label, *(with_interval(table["correlations"][epoch][judge]) for epoch in epochs)]
            for judge, label in judges.items()
        ]
        whole = table["facts"]["epochs"]
        parts.append(table_of([f"**{name}**", *(f"epoch {epoch} of {whole}" for epoch in epochs)], rows))
    return "\n\n".join(parts)


def regrets(tables: Tables, schedule: str) -> str:
    """Regret of each rule in each table, with one schedule."""
    found = [table["searches"][schedule] for table in tables.values()]
    rows = []
    for rule in found[0]:
        values = [each[rule]["regret"] for each in found]
        mean = float(np.mean([value[0] for value in values]))
        rows.append([rule, *map(with_interval, values), two(mean)])
    counts = ("3", "6")
    for count in counts:
        values = [table["facts"]["random"][count] for table in tables.values()]
        mean = float(np.mean([value[0] for value in values]))
        rows.append([f"random {count}, to the end", *map(with_interval, values), two(mean)])
    epochs = [f"{each['loss']['epochs']:.0f}" for each in found]
    rows.append(["*epochs by the loss*", *epochs, ""])
    rows.append(["*epochs of the pool*", *(str(24 * table["facts"]["epochs"]) for table in tables.values()), ""])
    return table_of([schedule, *tables, "mean"], rows)


def schedules(tables: Tables, rules: Sequence[str] = ("loss", "averaged_loss")) -> str:
    """Regret and epochs of each schedule by losses alone."""
    rows = []
    for name in next(iter(tables.values()))["searches"]:
        for rule in rules:
            each = [table["searches"][name][rule] for table in tables.values()]
            rows.append([name, rule, *(f"{with_interval(one['regret'])}; {one['epochs']:.0f}" for one in each)])
    return table_of(["schedule", "criterion", *tables], rows)


def chosen_elsewhere(tables: Tables, schedule: str) -> str:
    """For each table: the rule that is best on average in the others, and what it does here."""
    if len(tables) < 2:
        return "This needs two tables."
    rows = []
    for name, table in tables.items():
        others = [each["searches"][schedule] for other, each in tables.items() if other != name]
        here = table["searches"][schedule]
        best = min(here, key=lambda rule: float(np.mean([each[rule]["regret"][0] for each in others])))
        better = min(("loss", "ls"), key=lambda rule: here[rule]["regret"][0])
        rows.append(
            [name, best, *(with_interval(here[rule]["regret"]) for rule in (best, "loss", "ls", "blend")), better]
        )
    return table_of(["left out", "best elsewhere", "its regret here", "loss", "ls", "blend", "better of the two"], rows)


def factor(tables: Tables, most: float = 0.15) -> str:
    """The cheapest schedule with a small regret, for each rule and table."""
    rows = []
    for rule in next(iter(tables.values()))["searches"]["early"]:
        row = [rule]
        for table in tables.values():
            costs = [
                (each[rule]["epochs"], name)
                for name, each in table["searches"].items()
                if rule in each and each[rule]["regret"][0] <= most
            ]
            pool = 24 * table["facts"]["epochs"]
            row.append(f"{pool / min(costs)[0]:.1f} ({min(costs)[1]})" if costs else "not reached")
        rows.append(row)
    return table_of(["rule", *tables], rows)


def published(found: Mapping[str, Sequence[float]]) -> str:
    """The 26 candidates of the authors."""
    rows = [[name, str(values[0]), two(values[1]), two(values[2])] for name, values in found.items()]
    return table_of(["candidates", "number", "LS distance, epoch 3", "validation perplexity, epoch 3"], rows)


def nasbench(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Losses alone, in pools of 40 of 341 cells."""
    rows = []
    for name, each in found.items():
        regret = "{:.3f} ({:.3f}, {:.3f})".format(*each["regret"])
        rows.append([*name.split("; "), f"{each['epochs']:.0f}", two(each["best"]), regret])
    return table_of(["rungs", "criterion", "epochs of 2,000", "best found", "regret"], rows)


def blocks(found: Mapping[str, Any]) -> dict[str, str]:
    """Each marked part of the page."""
    tables = found["tables"]
    makers: dict[str, Callable[[], str]] = {
        "settings": lambda: settings(tables),
        "judges": lambda: judged(tables, JUDGES),
        "adds": lambda: judged(tables, ADDS),
        "distances": lambda: judged(tables, {f"ls, {kind}": kind for kind in DISTANCES}),
        "regret-early": lambda: regrets(tables, "early"),
        "regret-middle": lambda: regrets(tables, "middle"),
        "schedules": lambda: schedules(tables),
        "left-out": lambda: chosen_elsewhere(tables, "middle"),
        "factor": lambda: factor(tables),
        "published": lambda: published(found["published"]),
        "nasbench": lambda: nasbench(found["nasbench"]),
    }
    return {name: make() for name, make in makers.items()}


def marked(page: str, parts: Mapping[str, str]) -> str:
    """The page with its marked parts replaced.

    Raises:
        ValueError: a part has no marks in the page.
    """
    for name, text in parts.items():
        pattern = rf"(<!-- evidence: {name} -->\n).*?(<!-- /evidence -->)"
        page, count = re.subn(
            pattern, lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL
        )  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"docs/results.md must have the marks of {name!r} once, got {count}. Add them.")
    return page


def readable(axis: Axes, ticks: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as numbers."""
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def draw(tables: Tables) -> None:
    """Two figures: correlation over the training, and regret against epochs."""
    count = len(tables)
    figure = Figure(figsize=(10, 2.6 * ((count + 2) // 3)), layout="constrained")
    axes = figure.subplots((count + 2) // 3, min(3, count), squeeze=False, sharey=True)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        epochs = sorted(map(int, table["correlations"]))
        for judge in ("loss", "averaged_loss", "conditional_ls", "drop_fraction"):
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
    figure.savefig(PAGE.with_name("evidence_judges.png"), dpi=110, metadata={"Software": None})

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for rule in ("loss", "averaged_loss", "ls", "blend", "calibrated", "surrogate", "config_surrogate"):
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
    figure.savefig(PAGE.with_name("evidence_regret.png"), dpi=110, metadata={"Software": None})


def write_page(found: Mapping[str, Any]) -> None:
    """Replace the marked parts of docs/results.md, and draw the figures."""
    PAGE.write_text(marked(PAGE.read_text(), blocks(found)))
    draw(found["tables"])
