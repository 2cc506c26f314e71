"""A small text and a small search: whole runs take a second."""

import random
from pathlib import Path

from hyperpruning.experiment import Experiment

WORDS = ["a", "be", "cab", "deaf", "bead", "face", "fed", "ad", "bad", "dab"]


def write_text(folder: Path) -> Path:
    """A text in three splits, in which the next character can partly be foreseen."""
    draw = random.Random(0)
    for split, lines in (("train", 120), ("valid", 40), ("test", 40)):
        text = "".join(" ".join(draw.choices(WORDS, k=8)) + "\n" for _ in range(lines))
        (folder / f"{split}.txt").write_text(text)
    return folder


def small(folder: Path, **sections: dict[str, object]) -> Experiment:
    """A search of five candidates on a small text, without the dense network with as many weights."""
    defaults: dict[str, dict[str, object]] = {
        "data": {"folder": folder, "unit": "character", "eval_batch": 4},
        "model": {"hidden": 8, "embedding": 8},
        "training": {"epochs": 4, "batch": 8, "bptt": 20, "lr": 5.0, "average_from": 0.5},
        "pruning": {"sparsity": 0.6, "updates_per_epoch": 3},
        "search": {"n_candidates": 5, "ask_batch": 3, "rungs": (1, 2), "keep": (3, 2), "as_many_weights": False},
        "spectrum": {"warmup": 4, "probe_steps": 14, "probe_batch": 2},
    }
    return Experiment(**{name: defaults.get(name, {}) | sections.get(name, {}) for name in {*defaults, *sections}})
