"""Run folders made by hand: a ledger of invented facts, decided by the real judges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.criteria import OBJECTIVES
from hyperpruning.search.ledger import Ledger, epoch_fact, read
from hyperpruning.search.schedulers import decide
from hyperpruning.training.epochs import EpochRecord

PRUNABLE = 40_000
TENSORS = {"encoder.weight": 1, "rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 4, "decoder.weight": 1}
SCOPES = ("tensor", "sign", "global")


def identity(**changes: Any) -> dict[str, Any]:
    settings = {
        "sparsity": 0.8,
        "pool": 12,
        "generation": 6,
        "sampler": "tpe",
        "rungs": [2, 3],
        "keep": [6, 3],
        "objectives": ["ls", "loss", "rank_sum"],
        "distance": "l1",
        "exhaustive": False,
        "task": {
            "unit": "character",
            "cell": "lstm",
            "hidden": 16,
            "layers": 1,
            "dropout": 0.1,
            "text_sha256": "ab" * 32,
        },
        "dense_task": {"unit": "character", "cell": "lstm", "hidden": 16, "layers": 1, "dropout": 0.3},
        "train": {"epochs": 10, "lr": 15.0, "clip": 0.25, "seed": 3, "updates_per_epoch": 4},
        "space": {
            "allocation": ["uniform", "er"],
            "drop_scope": list(SCOPES),
            "redistribute": ["none", "nonzeros"],
            "drop_fraction": {"low": 0.3, "high": 0.8, "step": 0.1},
        },
        "spectrum": {"state": "h", "warmup": 20, "until": 3},
    }
    return settings | changes


def point(index: int) -> dict[str, str | float]:
    return {
        "allocation": ("uniform", "er")[index % 2],
        "drop_scope": SCOPES[index % 3],
        "redistribute": ("none", "nonzeros")[index // 2 % 2],
        "drop_fraction": round(0.3 + 0.1 * (index % 6), 1),
    }


def epoch_record(index: int | None, epoch: int, settings: dict[str, Any]) -> EpochRecord:
    """An invented network: better for a larger index that is a multiple of 5 modulo 12; None is the dense one."""
    quality = 0.0 if index is None else (5 * index % 12) / 12
    noise = np.random.default_rng([epoch, 99 if index is None else index])
    loss = 1.55 + 0.1 * quality + (2.9 + quality) * math.exp(-1.1 * epoch) + 0.01 * noise.normal()
    if index is None:
        loss += 0.03 * max(0, epoch - 7)
    spectrum: list[float | None] = []
    if settings["spectrum"]["until"] is None or epoch <= settings["spectrum"]["until"]:
        base = -0.15 - 0.05 * epoch - np.linspace(0, 2.2, 16) ** 1.5 * (1 + 0.4 * quality / (1 + 0.2 * epoch))
        order = np.random.default_rng(0).permutation(16)
        spectrum = [*(base + 0.02 * noise.normal(size=16))[order].tolist()]
        if index == 4:
            spectrum[3] = None  # a dead unit
    rows = {} if index is None else TENSORS
    density = {name: [min(1.0, 0.2 + 0.05 * noise.random() + 0.01 * epoch)] * groups for name, groups in rows.items()}
    active = PRUNABLE if index is None else round(PRUNABLE * (1 - settings["sparsity"]))
    return EpochRecord(epoch, loss + 0.1 if epoch else None, loss, active, density, 0.1, 0.5, 1.5, tuple(spectrum))


def final_fact(name: str, index: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    records = [epoch_record(index, epoch, settings) for epoch in range(1, settings["train"]["epochs"] + 1)]
    best = min(records, key=lambda record: record.valid_loss)
    return {
        "kind": "final",
        "network": name,
        "best_epoch": best.epoch,
        "valid_loss": best.valid_loss,
        "test_loss": best.valid_loss + 0.02,
        "active": best.active,
        "sha256": f"{index or 0:064d}",
    }


class Invented:
    """Writes the facts of a search in the order in which the search would; `until` stops it before a stage."""

    STAGES = ("header", "pool", "rounds", "finals", "all")

    def __init__(self, folder: Path, *, until: str = "all", failing: tuple[str, ...] = (), **changes: Any) -> None:
        self.settings = identity(**changes)
        self.ledger, self.folder, self.failing = Ledger(folder), folder, failing
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"hyperpruning": "0.1.0", "python": "3.11.2", "torch": "2.6.0"}
        self.ledger.append({"kind": "search", "identity": self.settings, "versions": versions})
        self.reached: dict[str, int] = {}
        steps = [self.pool, self.rounds, self.finals]
        for stage, step in zip(self.STAGES[1:], steps, strict=False):
            if until in self.STAGES[: self.STAGES.index(stage)]:
                break
            step()

    def index(self, name: str) -> int | None:
        return None if name == "dense" else int(name[1:]) - 1

    def train(self, name: str, until: int) -> None:
        if name in self.failing and self.reached.get(name, -1) >= 0:
            return
        for epoch in range(self.reached.get(name, -1) + 1, until + 1):
            if name in self.failing and epoch == 2:
                self.ledger.append({"kind": "failure", "network": name, "reason": "A loss is finite <and> was nan."})
                return
            self.ledger.append(epoch_fact(name, epoch_record(self.index(name), epoch, self.settings)))
            self.reached[name] = epoch
        if until == self.settings["train"]["epochs"]:
            self.ledger.append(final_fact(name, self.index(name), self.settings))

    def pool(self) -> None:
        first = self.settings["rungs"][0]
        for index in range(self.settings["pool"]):
            fact = {
                "kind": "candidate",
                "name": f"c{index + 1:02d}",
                "generation": index // self.settings["generation"],
            }
            self.ledger.append(fact | {"point": point(index)})
        for name in ("dense", *read(self.folder).candidates):
            self.train(name, first)

    def rounds(self) -> None:
        self.alive = {judge: list(read(self.folder).candidates) for judge in self.settings["objectives"]}
        for number, (epoch, keep) in enumerate(zip(self.settings["rungs"], self.settings["keep"], strict=True)):
            for name in ("dense", *sorted({name for names in self.alive.values() for name in names})):
                self.train(name, epoch)
            history = read(self.folder)
            for judge in self.settings["objectives"]:
                records = {name: record for name, record in history.at(epoch).items() if name in self.alive[judge]}
                scores = OBJECTIVES[judge](records, history.epochs["dense"][epoch], self.distance)
                self.alive[judge], dropped = decide(scores, keep)
                fact = {"kind": "round", "objective": judge, "round": number, "epoch": epoch}
                self.ledger.append(fact | {"scores": scores, "kept": self.alive[judge], "dropped": dropped})

    def distance(self, one: Any, two: Any) -> float:
        return float(spectrum_distance(one, two, kind=self.settings["distance"]))

    def finals(self) -> None:
        end = self.settings["train"]["epochs"]
        for name in ("dense", *sorted({name for names in self.alive.values() for name in names})):
            self.train(name, end)
        finals = read(self.folder).finals
        for judge, names in self.alive.items():
            winner = min(names, key=lambda name: finals[name]["valid_loss"])
            self.ledger.append({"kind": "winner", "objective": judge, "network": winner})
        if self.settings["exhaustive"]:
            for name in read(self.folder).candidates:
                if name not in finals:
                    self.train(name, end)
