"""A latency target: does a step take what was predicted, and is the allocation that the target gives a good one?

    python benchmarks/latency.py [--part times|quality] [--seeds 3]

"times" measures the steps of networks of several sizes, predicts those of networks whose matrices have the weights that
a target leaves them (random masks of single weights or of blocks of 8 x 4), and measures these. "quality" trains the
demo's network (128 units) by rigl with three allocations that are predicted to take the same time: the target's own
(SPDY's dynamic program), uniform, and er; 8 epochs on a fifth of the built-in text. Results go into
benchmarks/results/latency.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import table

import hyperpruning as hp
from hyperpruning.deploy.benchmark import step_microseconds
from hyperpruning.network_costs import measure_step_times, randomly_masked, with_step_times
from hyperpruning.search.latency import TIMED, StepTimes
from hyperpruning.search.plan import Plan
from hyperpruning.sparsity.allocations import ALLOCATIONS

RESULTS = Path(__file__).parent / "results" / "latency.json"
SIZES = (("lstm", 128), ("lstm", 256), ("gru", 384), ("lstm", 650))
TARGETS = (0.7, 0.5, 0.3)
TARGET = "0.5x"
EPOCHS = 8


def plan_of(cell: str, hidden: int, precision: str) -> Plan:
    """A character model of the built-in text."""
    model = {"cell": cell, "hidden": hidden, "embedding": min(hidden, 256)}
    return hp.Experiment(model=model, pruning={"latency_precision": precision}).plan()


def times() -> list[dict[str, Any]]:
    """Predicted and measured steps."""
    rows = []
    for cell, hidden in SIZES:
        for precision in ("exact", "int8"):
            plan = plan_of(cell, hidden, precision)
            assert plan.task is not None
            measured = measure_step_times(plan)
            wanted, networks = {}, {"dense": plan.task.network(0).eval()}
            for kind, granularity in TIMED.items():
                for target in TARGETS:
                    try:
                        counts = measured.within(target * measured.dense, granularity)
                    except ValueError:  # below the floor
                        continue
                    name = f"{kind} {target}"
                    wanted[name] = kind, target, measured.predicted(counts, granularity), sum(counts.values())
                    generator = torch.Generator().manual_seed(1)
                    networks[name] = randomly_masked(networks["dense"], counts, granularity, generator)
            found = step_microseconds(networks, precision=precision)
            whole = sum(counts[0] for counts in measured.weights.values())
            for name, (kind, target, predicted, active) in wanted.items():
                rows.append(
                    {
                        "network": f"{cell} 2 x {hidden}",
                        "precision": precision,
                        "pruned": kind,
                        "target": target,
                        "sparsity": 1 - active / whole,
                        "predicted us": predicted,
                        "measured us": found[name],
                        "of dense": found[name] / found["dense"],
                    }
                )
            table(rows[-len(wanted) :])
    return rows


def equally_fast(name: str, plan: Plan, measured: StepTimes, target: float) -> float:
    """The least sparsity at which an allocation is predicted to take at most the target."""
    assert plan.task is not None
    shapes = {name: one.shape for name, one in plan.task.network(0).named_parameters() if name in measured.weights}
    whole = sum(shape.numel() for shape in shapes.values())
    low, high = 0, whole
    while high - low > 1:
        middle = (low + high) // 2
        fits = measured.predicted(ALLOCATIONS[name](shapes, middle)) <= target
        low, high = (middle, high) if fits else (low, middle)
    return 1 - low / whole


def quality(seeds: int) -> list[dict[str, Any]]:
    """Final losses of equally fast networks."""
    rows = []
    model = {"hidden": 128, "embedding": 64}
    base = hp.Experiment(data={"fraction": 0.2}, model=model, training={"epochs": EPOCHS}, search={"train_all": True})
    asked = replace(base.plan(), as_many_weights=False, n_candidates=2, ask_batch=2, rungs=(1,), keep=(1,))
    timed = with_step_times(replace(asked, latency=TARGET))
    assert timed.step_times is not None
    target = float(TARGET[:-1]) * timed.step_times.dense
    sparsities = {name: equally_fast(name, asked, timed.step_times, target) for name in ("uniform", "er")}
    others = tuple({"method": "rigl", "allocation": name, "sparsity": one} for name, one in sparsities.items())
    own = tuple({"method": "rigl", "drop_fraction": one} for one in (0.3, 0.31))
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            for plan, configs in ((timed, own), (asked, others)):
                train, space = replace(plan.train, seed=seed), replace(plan.space, fixed=configs)
                run = Path(folder) / str(len(rows))
                history = hp.hyperprune(replace(plan, train=train, space=space), run)
                for name, candidate in history.candidates.items():
                    final = history.finals[name]
                    allocation = candidate.config.get("allocation") or f"target {candidate.config['drop_fraction']:g}"
                    rows.append({"seed": seed, "allocation": allocation, "active": final.active})
                    rows[-1] |= {"valid loss": final.valid_loss, "test loss": final.test_loss}
        table(rows[-4:])
    for name in dict.fromkeys(row["allocation"] for row in rows):
        losses = [row["valid loss"] for row in rows if row["allocation"] == name]
        print(f"{name}: valid loss {statistics.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})")
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/deployment.md: sparsity, and predicted and measured microseconds, at each target."""
    lines = [
        "| network, decoder | pruned | " + " | ".join(f"{target}x" for target in TARGETS) + " |",
        "|---|---|---|---|---|",
    ]
    found = {(r["network"], r["precision"], r["pruned"], r["target"]): r for r in rows}
    for network, precision, pruned in dict.fromkeys(key[:3] for key in found):
        cells = []
        for target in TARGETS:
            row = found.get((network, precision, pruned, target))
            times = "" if row is None else f"{row['predicted us']:.3g} -> {row['measured us']:.3g} us"
            cells.append("below the floor" if row is None else f"{row['sparsity']:.0%}: {times}".replace("%", " %"))
        kind = "single weights" if pruned == "weight" else "blocks of 8 x 4"
        lines.append(f"| {network}, {precision} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["times", "quality"], default=None, help="one part; default: both")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.part in (None, "times"):
        results["times"] = times()
    if given.part in (None, "quality"):
        results["quality"] = quality(given.seeds)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
