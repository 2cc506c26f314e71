"""Does sparse beat dense, each at its own best? python benchmarks/sparse_against_dense.py, and then again with --final.

The text is a part of the built-in training text (validation and test are whole), and everybody is trained equally long.
Settings: "large" and "small" have networks far too large for their text, sparse and dense of the same size; in "wide"
the sparse network has the dense one's number of weights, in twice as many units. The first stage trains the setting's
trials below with one seed. `--final` takes the dense dropouts and the sparse trials with the best validation
perplexities and trains them with fresh seeds. Every finished training is written to
benchmarks/results/sparse_against_dense.json at once, and not trained again.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measuring import table

from hyperpruning.data.corpus import SPLITS, builtin_text
from hyperpruning.files import write_atomic
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import Training

RESULTS = Path(__file__).parent / "results" / "sparse_against_dense.json"
EPOCHS, AVERAGE_FROM = 30, 0.6
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
        lr: learning rate.
        hidden: units of each of the two layers.
        every: of so many paragraphs of the training text one is kept.
    """

    name: str
    dropout: float
    sparsity: float = 0.0
    parts: dict[str, Any] = field(default_factory=dict, hash=False)
    scope: str = "all"
    seed: int = 0
    epochs: int = EPOCHS
    lr: float = 15.0
    hidden: int = 192
    every: int = 4


# dense to sparse: the density has arrived at half-time, and averages begin after that
GMP = {"method": "gmp", "density_until": 0.5, "stop": 0.5}
GMP_GLOBAL = {"method": "gmp-global", "density_until": 0.5, "stop": 0.5}
LAMP = GMP_GLOBAL | {"drop": "lamp"}
GRANET = {"method": "granet", "density_until": 0.5, "stop": 0.5}
ISS = {"method": "iss-p"}
# sparse from the beginning: what the published search found
WINNER = {"allocation": "er", "drop_scope": "global", "redistribute": "nonzeros"}

# far more weights than the text has characters
LARGE = [
    *(Trial("dense", dropout) for dropout in (0.3, 0.4, 0.5, 0.6)),
    Trial("gmp", 0.4, 0.5, GMP),
    Trial("published winner", 0.3, 0.67, WINNER),
    Trial("gmp", 0.3, 0.5, GMP),
    Trial("gmp-global", 0.3, 0.5, GMP_GLOBAL),
    Trial("gmp, recurrent", 0.4, 0.5, GMP, scope="recurrent"),
    Trial("gmp-global", 0.3, 0.75, GMP_GLOBAL),
    Trial("gmp-global", 0.4, 0.5, GMP_GLOBAL),
]
# likewise, a quarter of the network, a quarter of the text, and time to learn it
small = partial(Trial, epochs=100, hidden=96, every=16)
SMALL = [
    *(small("dense", dropout) for dropout in (0.3, 0.4, 0.45, 0.5)),
    *(small("gmp", dropout, 0.5, GMP) for dropout in (0.2, 0.3, 0.4)),
    *(small("gmp", dropout, 0.3, GMP) for dropout in (0.4, 0.5)),
    small("gmp", 0.45, 0.2, GMP),
    small("gmp-global", 0.4, 0.5, GMP_GLOBAL),
    small("lamp", 0.4, 0.5, LAMP),
    small("granet", 0.4, 0.5, GRANET),
    small("rigl-erk", 0.4, 0.5, {"method": "rigl-erk"}),
    *(small("iss-p", dropout, 0.5, ISS) for dropout in (0.4, 0.45, 0.5)),
    *(small("iss-p", dropout, 0.67, ISS) for dropout in (0.4, 0.5)),
    small("iss-p", 0.4, 0.3, ISS),
    *(small(f"iss-p, until {stop}", 0.4, 0.5, ISS | {"stop": stop}) for stop in (0.1, 0.2)),
]
# the whole text, and a sparse network twice as wide as the dense one, with as many weights
full = partial(Trial, epochs=20, every=1)
WIDE = [
    *(full("dense", dropout, hidden=64) for dropout in (0.0, 0.05, 0.1, 0.2)),
    *(full("gmp, wide", dropout, 0.75, GMP, hidden=128) for dropout in (0.0, 0.1)),
    full("published winner, wide", 0.0, 0.75, WINNER, hidden=128),
]
SETTINGS = {"large": LARGE, "small": SMALL, "wide": WIDE}


def write_text(folder: Path, every: int, others: int = 1) -> None:
    """The built-in text as a folder, with one of so many paragraphs for training, and for validation and test."""
    corpus = builtin_text()
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        text = "".join(corpus.vocabulary[token] for token in getattr(corpus, split).tolist())
        paragraphs = text.split("\n\n")[:: every if split == "train" else others]
        write_atomic(folder / f"{split}.txt", "\n\n".join(paragraphs).encode())  # other processes may read it


def trained(trial: Trial, folder: Path) -> Row:
    """Train it; return perplexities at the epoch with the best validation loss, averaged as usual, and never."""
    started = time.perf_counter()
    task = LanguageModelling(folder, embedding=trial.hidden, hidden=trial.hidden, dropout=trial.dropout)
    config = TrainConfig(
        epochs=trial.epochs, lr=trial.lr, average_from=AVERAGE_FROM, scope=trial.scope, seed=trial.seed
    )
    method = from_config(trial.parts) if trial.sparsity else None
    training = Training(task, config, method, sparsity=trial.sparsity)
    averaged, plain = Best(), Best()
    for record in epochs(training):
        sparsifier = training.sparsifier
        arrived = training.epoch > 0 and (
            sparsifier is None or (sparsifier.at_final_density and not sparsifier.soft_shrinking)
        )
        averaged.see(record.epoch, record.valid_loss, training.best if arrived else None)
        loss = record.valid_loss
        if training.averaging:  # averages leave the training alone: what it would be without them is here
            loss = task.evaluate(training.network.eval(), "valid")
            training.network.train()
        plain.see(record.epoch, loss, training.network.state_dict() if arrived else None)
    return {
        **averaged.row(training),
        "plain": plain.row(training),
        "reached": training.sparsifier.sparsity if training.sparsifier else 0.0,
        "active": record.active,
        "seconds": round(time.perf_counter() - started),
    }


class Best:
    """The weights at the epoch with the smallest validation loss so far, and all the losses as perplexities."""

    def __init__(self) -> None:
        self.loss, self.epoch, self.curve = math.inf, 0, []
        self.weights: dict[str, torch.Tensor] = {}

    def see(self, epoch: int, loss: float, weights: dict[str, torch.Tensor] | None) -> None:
        """Take note of an epoch; without weights it cannot be the best."""
        self.curve.append(round(math.exp(loss), 3))
        if weights is not None and loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.weights = {name: value.clone() for name, value in weights.items()}

    def row(self, training: Training) -> Row:
        """The best epoch, and its perplexities."""
        training.network.load_state_dict(self.weights)
        test = training.task.evaluate(training.network.eval(), "test")
        valid, test = (round(math.exp(loss), 4) for loss in (self.loss, test))
        return {"epoch": self.epoch, "valid": valid, "test": test, "curve": self.curve}


def known() -> list[Row]:
    """What has been trained before."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def run(trials: list[Trial], folder: Path) -> list[Row]:
    """The rows of these trials, trained where they are not known yet."""
    rows = []
    for trial in trials:
        setting = asdict(trial) | {"average_from": AVERAGE_FROM}
        row = next((row for row in known() if row.items() >= setting.items()), None)
        if row is None:
            text = folder / f"every_{trial.every}"
            write_text(text, trial.every)
            row = setting | trained(trial, text)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in [*known(), row]) + "\n]\n")
            show([row])
        rows.append(row)
    return rows


def show(rows: list[Row]) -> None:
    """Print the rows."""
    columns = ("name", "scope", "sparsity", "dropout", "lr", "seed", "epoch", "valid", "test", "seconds")
    plain = [{f"plain {part}": row.get("plain", {}).get(part, "-") for part in ("valid", "test")} for row in rows]
    table([{column: row[column] for column in columns} | of_plain for row, of_plain in zip(rows, plain, strict=True)])


def best_trials(rows: list[Row], count: int) -> list[Trial]:
    """The trials with the smallest validation perplexities, at the usual learning rate."""
    usual = [row for row in rows if row["lr"] == Trial("", 0).lr]
    names = [one.name for one in fields(Trial)]
    return [Trial(**{name: row[name] for name in names}) for row in sorted(usual, key=lambda row: row["valid"])[:count]]


def compare(dense: list[list[Row]], sparse: list[list[Row]]) -> None:
    """Print each trial's mean over the seeds, and its differences from the dense one with the best mean validation."""
    reference = min(dense, key=lambda rows: mean(row["valid"] for row in rows))
    lines = []
    for rows in [*dense, *sparse]:
        for split in ("valid", "test"):
            less = [row[split] - other[split] for row, other in zip(rows, reference, strict=True)]
            line = {"name": rows[0]["name"], "sparsity": rows[0]["sparsity"], "dropout": rows[0]["dropout"]}
            line |= {"split": split, "mean": mean(row[split] for row in rows), "less dense": mean(less)}
            lines.append(line | {f"seed {row['seed']}": one for row, one in zip(rows, less, strict=True)})
    table(lines)


def main() -> None:
    """Run the trials, and compare the best ones over fresh seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="large")
    parser.add_argument("--final", action="store_true", help="compare the best with fresh seeds")
    parser.add_argument("--dense", type=int, default=2, help="dense dropouts in the final comparison")
    parser.add_argument("--sparse", type=int, default=1, help="sparse trials in the final comparison")
    parser.add_argument("--seeds", type=int, nargs="+", default=FRESH_SEEDS, help="of the final comparison")
    parser.add_argument("--text", type=Path, default=Path("runs/short_text"), help="folder that the text is written to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(SETTINGS[options.setting], options.text)
    show(rows)
    if not options.final:
        return
    dense = best_trials([row for row in rows if row["name"] == "dense"], options.dense)
    sparse = best_trials([row for row in rows if row["sparsity"]], options.sparse)
    fresh: dict[Trial, list[Row]] = {trial: [] for trial in [*dense, *sparse]}
    for seed in options.seeds:
        for trial, found in fresh.items():
            found.extend(run([replace(trial, seed=seed)], options.text))
    show([row for found in fresh.values() for row in found])
    for weights in ("averaged", "plain"):
        print(f"{weights} weights, less those of the best dense network, by seed:")
        of = {trial: [row | row["plain"] if weights == "plain" else row for row in fresh[trial]] for trial in fresh}
        compare([of[trial] for trial in dense], [of[trial] for trial in sparse])


if __name__ == "__main__":
    main()
