"""The marked parts of docs/results.md, and its figures, from benchmarks/results/evidence.json.

Every sentence here that has a number takes it from the json; tests/test_evidence.py compares the page with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence_figures import JUDGES, draw

from hyperpruning.lyapunov.distances import DISTANCES

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
SINGLE = ("loss", "ls", "averaged_loss")
LOOKS = (0.025, 0.1, 0.2)  # fractions of the training
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


def baselines(found: Mapping[str, Any]) -> str:
    """Regret and epochs of the rules of other libraries and of ours on the same pools, and their differences."""
    searches = [each["searches"] for each in found.values()]
    rows = []
    for kind, rules in searches[0].items():
        rows.append([f"*{kind}, searches*", *(str(len(each["chosen"][kind]["loss"])) for each in found.values())])
        for rule in rules:
            cells = [each[kind][rule] for each in searches]
            rows.append([f"{kind}: {rule}", *(f"{with_interval(one['regret'])}; {one['epochs']:.0f}" for one in cells)])
        new = list(rules)[-1]
        rows.append([f"{kind}: {new} - loss", *(with_interval(each[kind][new]["minus loss"]) for each in searches)])
    return table_of(["search", *found], rows)


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


def against_the_better(table: Mapping[str, Any], schedule: str, rule: str) -> Sequence[float]:
    """How much more regret a rule has than the better one of loss and distance: mean and interval, in pairs."""
    here = table["searches"][schedule]
    better: str = min(("loss", "ls"), key=lambda base: here[base]["regret"][0])
    difference: Sequence[float] = here[rule][f"minus {better}"]
    return difference


def safest(tables: Tables, schedule: str, chosen_on: Sequence[str]) -> str:
    """For each rule: its mean regret, and in how many pools it is worse or better than the better of loss and LS."""
    parts = {True: "pools it was chosen on", False: "pools collected afterwards"}
    rows = []
    for rule in next(iter(tables.values()))["searches"][schedule]:
        row = [rule]
        for inside in parts:
            here = [table for name, table in tables.items() if (name in chosen_on) == inside]
            differences = [against_the_better(table, schedule, rule) for table in here]
            worse, better = sum(d[1] > 0 for d in differences), sum(d[2] < 0 for d in differences)
            means = [table["searches"][schedule][rule]["regret"][0] for table in here]
            row += [two(float(np.mean(means))) if means else "", f"{worse} of {len(here)}", f"{better} of {len(here)}"]
        rows.append(row)
    head = [f"{name}: {what}" for name in parts.values() for what in ("regret", "worse", "better")]
    return table_of([schedule, *head], rows)


def side_by_side(tables: Tables) -> str:
    """Regret and share of the pool's epochs: criteria together, and single ones of a schedule that costs as much."""
    several = [
        (schedule, which) for schedule, each in next(iter(tables.values()))["together"].items() for which in each
    ]
    found = [(f"{s}: {which}", [table["together"][s][which] for table in tables.values()]) for s, which in several]
    single = [(f"late: {rule}", [t["searches"]["late"][rule] for t in tables.values()]) for rule in SINGLE]
    rows = []
    for name, each in [*found, *single]:
        shares = [one["epochs"] / (24 * t["facts"]["epochs"]) for one, t in zip(each, tables.values(), strict=True)]
        mean = two(float(np.mean([one["regret"][0] for one in each])))
        cells = [f"{with_interval(one['regret'])}; {share:.0%}" for one, share in zip(each, shares, strict=True)]
        rows.append([name, *cells, f"{mean}; {np.mean(shares):.0%}"])
    return table_of(["schedule: criteria", *tables, "mean"], rows)


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


def frontier(found: Mapping[str, Any]) -> str:
    """Test metrics by active weights: means over seeds, with their range."""
    scaled = [kind for one in ("static", "rigl-erk") for kind in (one, f"{one}, fan_in")]
    kinds = ("narrower", *scaled, "gmp", "searched", "searched, unchanged", "searched, whole space")
    rows = []
    for task, one in found.items():
        networks = one["networks"]
        points = [networks[key][kind] for key in networks for kind in ("dense", "narrower")]
        dense = [(float(np.mean([p[0] for p in each])), float(np.mean([p[1] for p in each]))) for each in points]
        for sparsity, here in networks.items():
            best = min(kinds[1:], key=lambda kind, here=here: np.mean([p[1] for p in here[kind]]))  # type: ignore[misc]
            loss, weights = (float(np.mean([p[part] for p in here[best]])) for part in (1, 0))
            times = equal_dense(loss, dense) / weights
            factor = f"{times:.1f} ({best})" if math.isfinite(times) else f"no dense one is as good ({best})"
            cells = [metrics(here[kind]) for kind in ("dense", *kinds)]
            rows.append([f"{task}, {one['metric']}", f"{float(sparsity):.0%}", f"{weights:,.0f}", *cells, factor])
    head = ["task", "sparsity", "weights", "dense, all weights", "dense, as many weights", *kinds[1:], "factor"]
    return table_of(head, rows)


def metrics(points: Sequence[Sequence[float]]) -> str:
    """A mean over seeds with its range."""
    values = [point[2] for point in points]
    digits = 1 if min(values) > 20 else 2 if min(values) > 1 else 3
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def equal_dense(loss: float, dense: Sequence[tuple[float, float]]) -> float:
    """The weights with which a dense network has this test loss, between measured widths; inf beyond the best one.

    Args:
        loss: to be reached.
        dense: (weights, loss) of dense networks; a wider one counts as no worse than a narrower one.
    """
    weights, losses = zip(*sorted(dense), strict=True)
    best = np.minimum.accumulate(losses)
    reached = np.flatnonzero(best <= loss)
    if not len(reached):
        return math.inf
    after = max(1, int(reached[0]))
    return math.exp(float(np.interp(-loss, -best[after - 1 : after + 1], np.log(weights[after - 1 : after + 1]))))


def without_random(tables: Tables) -> str:
    """Correlations at the looks, in the whole pool and without the candidates that grow random values."""
    judges = {"loss": "loss", "averaged_loss": "averaged loss", "ls": "LS"}
    rows = []
    for name, table in tables.items():
        if not (without := table["without random"]):
            continue
        for epoch in looks(table):
            cells = [
                with_interval(part[epoch][judge])
                for judge in judges
                for part in (table["correlations"], without["epochs"])
            ]
            counts = f"{table['facts']['candidates'] - table['facts']['failed']}, {without['candidates']}"
            rows.append([name, counts, f"{epoch} of {table['facts']['epochs']}", *cells])
    head = [cell for label in judges.values() for cell in (f"{label}: all", f"{label}: without")]
    return table_of(["table", "all, without", "epoch", *head], rows)


def own_dense(found: Mapping[str, Any]) -> str:
    """One dense network for each setting: correlations at the rungs of a search, and its regret."""
    judges = {"ls": "LS", "conditional_ls": "LS, freed", "own_dense": "LS, own dense", "averaged_loss": "averaged loss"}
    rows = []
    for name, table in found.items():
        for epoch, here in table["correlations"].items():
            cells = [with_interval(here[judge]) for judge in judges]
            rows.append([name, f"{epoch} of {table['epochs']}", *cells, *[""] * len(judges)])
        rows[-1][2 + len(judges) :] = [with_interval(table["regrets"][judge]) for judge in judges]
    head = ["table", "epoch", *judges.values(), *(f"regret: {label}" for label in judges.values())]
    return table_of(head, rows)


def probes(found: Mapping[str, Any]) -> str:
    """What the distance says with each probe: a table for each epoch, measured steps by rows, sequences by columns."""
    tables = []
    for epoch, here in found["looks"].items():
        sequences, steps = (list(dict.fromkeys(name.split(" x ")[part] for name in here)) for part in (0, 1))
        rows = [[f"{count} steps", *(_probe(here[f"{number} x {count}"]) for number in sequences)] for count in steps]
        head = [f"{number} sequence{'' if number == '1' else 's'}" for number in sequences]
        tables.append(table_of([f"**epoch {epoch} of {found['epochs']}**", *head], rows))
    return "\n\n".join(tables)


def _probe(one: Mapping[str, Any]) -> str:
    return f"{with_interval(one['final'])}; {two(one['longest'][0])}; {1000 * one['seconds']:.0f} ms"


def published(found: Mapping[str, Sequence[float]]) -> str:
    """The 26 candidates of the authors."""
    rows = [[name, str(values[0]), two(values[1]), two(values[2])] for name, values in found.items()]
    return table_of(["candidates", "number", "LS distance, epoch 3", "validation perplexity, epoch 3"], rows)


def curves(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Losses alone, in pools of 40 recorded curves."""
    rows = []
    for name, each in found.items():
        regret = "{} ({}, {})".format(*(f"{value:.3f}" if value < 100 else "over 100" for value in each["regret"]))
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
        "baselines": lambda: baselines(found["baselines"]),
        "left-out": lambda: chosen_elsewhere(tables, "middle"),
        "safest": lambda: safest(tables, "middle", found["chosen_on"]),
        "together": lambda: side_by_side(tables),
        "factor": lambda: factor(tables),
        "frontier": lambda: frontier(found["frontier"]),
        "no-random": lambda: without_random(tables),
        "own-dense": lambda: own_dense(found["own_dense"]),
        "probes": lambda: probes(found["probe"]),
        "published": lambda: published(found["published"]),
        "nasbench": lambda: curves(found["nasbench"]),
        "taskset": lambda: curves(found["taskset"]),
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


def write_page(found: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Replace the marked parts of docs/results.md, and draw the figures from the results and the tables' files."""
    PAGE.write_text(marked(PAGE.read_text(), blocks(found)))
    draw(found["tables"], paths, found["frontier"])
