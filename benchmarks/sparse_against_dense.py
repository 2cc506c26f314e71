"""Does sparse beat dense, each at its own best? python benchmarks/sparse_against_dense.py, and then again with --final.

The text is every fourth paragraph of the built-in training text (validation and test are whole), the network far too
large for it, and everybody is trained equally long. The first stage trains the trials below with one seed. `--final`
takes the dense dropouts and the sparse trials with the best validation perplexities and trains them with fresh seeds.
Every finished training is written to benchmarks/results/sparse_against_dense.json at once, and not trained again.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measuring import table

from hyperpruning.data.corpus import SPLITS, builtin_text
from hyperpruning.sparsity.spelling import composed
from hyperpruning.training.epochs import DivergedError, TrainConfig, Training, epochs
from hyperpruning.training.task import LanguageModelling

RESULTS = Path(__file__).parent / "results" / "sparse_against_dense.json"
EVERY = 4  # of so many paragraphs of the training text one is kept
HIDDEN, EPOCHS, AVERAGE_FROM = 192, 30, 0.6
FRESH_SEEDS = [11, 12, 13]

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        name: of the method, for the table; "dense" for none.
        dropout: of the network.
        sparsity: fraction of zeros over what is pruned.
        parts: the method's spelling.
        scope: what is pruned, "all" matrices or "recurrent" ones.
        seed: of weights, masks, dropout.
        epochs: length of the training.
    """

    name: str
    dropout: float
    sparsity: float = 0.0
    parts: dict[str, Any] = field(default_factory=dict)
    scope: str = "all"
    seed: int = 0
    epochs: int = EPOCHS


# dense to sparse: the density has arrived at half-time, and averages begin after that
GMP = {"method": "gmp", "density_until": 0.5, "stop": 0.5}
GMP_GLOBAL = {"method": "gmp-global", "density_until": 0.5, "stop": 0.5}
GROWING = GMP | {"drop_fraction": 0.3, "grow": "gradient"}
ISS_P = {"method": "iss-p"}
# sparse from the beginning: what the published search found
WINNER = {"allocation": "er", "drop_scope": "global", "redistribute": "nonzeros"}

TRIALS = [
    *(Trial("dense", dropout) for dropout in (0.3, 0.4, 0.5, 0.6)),
    Trial("gmp", 0.4, 0.5, GMP),
    Trial("published winner", 0.3, 0.67, WINNER),
    Trial("gmp", 0.3, 0.5, GMP),
    Trial("gmp-global", 0.3, 0.5, GMP_GLOBAL),
    Trial("gmp, recurrent", 0.4, 0.5, GMP, scope="recurrent"),
    Trial("gmp-global", 0.3, 0.75, GMP_GLOBAL),
    Trial("gmp-global", 0.4, 0.33, GMP_GLOBAL),
    Trial("gmp with growth", 0.4, 0.5, GROWING),
]


def write_text(folder: Path) -> None:
    """The built-in text as a folder, with fewer training paragraphs."""
    corpus = builtin_text()
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        text = "".join(corpus.vocabulary[token] for token in getattr(corpus, split).tolist())
        paragraphs = text.split("\n\n")[:: EVERY if split == "train" else 1]
        (folder / f"{split}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")


def trained(trial: Trial, folder: Path) -> Row:
    """Train it; return validation and test perplexity at the epoch with the best validation loss."""
    started = time.perf_counter()
    task = LanguageModelling(folder, embedding=HIDDEN, hidden=HIDDEN, dropout=trial.dropout)
    config = TrainConfig(epochs=trial.epochs, average_from=AVERAGE_FROM, scope=trial.scope, seed=trial.seed)
    method = composed(trial.parts) if trial.sparsity else None
    training = Training(task, config, method, sparsity=trial.sparsity)
    curve, found, best = [], math.inf, 0
    try:
        for record in epochs(training):
            curve.append(round(math.exp(record.valid_loss), 3))
            if training.best_loss < found:
                found, best = training.best_loss, record.epoch
    except DivergedError as error:
        return {"epoch": best, "valid": None, "test": None, "diverged": str(error), "curve": curve}
    training.network.load_state_dict(training.best)
    test = task.evaluate(training.network.eval(), "test")
    return {
        "epoch": best,
        "valid": round(math.exp(found), 4),
        "test": round(math.exp(test), 4),
        "reached": training.sparsifier.sparsity if training.sparsifier else 0.0,
        "active": record.active,
        "seconds": round(time.perf_counter() - started),
        "curve": curve,
    }


def run(trials: list[Trial], folder: Path) -> list[Row]:
    """The rows of these trials, trained where they are not known yet."""
    known: list[Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = []
    for trial in trials:
        setting = asdict(trial) | {"hidden": HIDDEN, "every": EVERY, "average_from": AVERAGE_FROM}
        row = next((row for row in known if row.items() >= setting.items()), None)
        if row is None:
            row = setting | trained(trial, folder)
            known.append(row)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in known) + "\n]\n")
            show([row])
        rows.append(row)
    return rows


def show(rows: list[Row]) -> None:
    """Print the rows."""
    columns = ("name", "scope", "sparsity", "dropout", "seed", "epochs", "epoch", "valid", "test", "seconds")
    table([{column: row.get(column, "-") for column in columns} for row in rows])


def compare(dense: list[list[Row]], sparse: list[list[Row]]) -> None:
    """Print the means over the fresh seeds, and each sparse trial less the dense one of the best mean validation."""
    reference = min(dense, key=lambda rows: mean(row["valid"] for row in rows))
    for rows in [*dense, *sparse]:
        print(f"{rows[0]['name']}, sparsity {rows[0]['sparsity']}, {rows[0]['scope']}, dropout {rows[0]['dropout']}:")
        for split in ("valid", "test"):
            less = [row[split] - other[split] for row, other in zip(rows, reference, strict=True)]
            seeds = "  ".join(f"{difference:+.3f}" for difference in less)
            print(f"  {split:<5} {mean(row[split] for row in rows):.3f}, less dense {mean(less):+.3f}: {seeds}")


def main() -> None:
    """Run the trials, and compare the best ones over fresh seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--final", action="store_true", help="compare the best with fresh seeds")
    parser.add_argument("--dense", type=int, default=2, help="dense dropouts in the final comparison")
    parser.add_argument("--sparse", type=int, default=2, help="sparse trials in the final comparison")
    parser.add_argument("--seeds", type=int, nargs="+", default=FRESH_SEEDS, help="of the final comparison")
    parser.add_argument("--text", type=Path, default=Path("runs/short_text"), help="folder that the text is written to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_text(options.text)
    rows = run(TRIALS, options.text)
    show(rows)
    if not options.final:
        return
    ranked = sorted(
        (trial for trial, row in zip(TRIALS, rows, strict=True) if row["valid"]),
        key=lambda trial: rows[TRIALS.index(trial)]["valid"],
    )
    chosen = [trial for trial in ranked if not trial.sparsity][: options.dense]
    pruned = [trial for trial in ranked if trial.sparsity][: options.sparse]
    fresh: dict[str, list[Row]] = {}
    for seed in options.seeds:
        for trial in [*chosen, *pruned]:
            (row,) = run([Trial(**asdict(trial) | {"seed": seed})], options.text)
            fresh.setdefault(str(trial), []).append(row)
    show([row for rows in fresh.values() for row in rows])
    compare([fresh[str(trial)] for trial in chosen], [fresh[str(trial)] for trial in pruned])


if __name__ == "__main__":
    main()
