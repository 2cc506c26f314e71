"""Run folders made by hand: invented records, of which the real `decide` makes a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hyperpruning.search.actions import Action, Finish, Record, Suggest, Train
from hyperpruning.search.history import DENSE, Candidate, Epoch, Fact, Failure, FinalResult, Header, Winner
from hyperpruning.search.ledger import Ledger, read
from hyperpruning.search.plan import recorded_plan
from hyperpruning.search.schedulers import decide
from hyperpruning.training.record import EpochRecord, Metric

PERPLEXITY = Metric("perplexity", "", "exp")
PRUNABLE = 40_000
TENSORS = {"encoder.weight": 1, "rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 4, "decoder.weight": 1}
SCOPES = ("tensor", "sign", "global")


def identity(**changes: Any) -> dict[str, Any]:
    settings = {
        "sparsity": 0.8,
        "n_candidates": 12,
        "ask_batch": 6,
        "sampler": "tpe",
        "rungs": [2, 3],
        "keep": [6, 3],
        "criteria": ["ls", "loss", "rank_sum"],
        "distance": "l1",
        "train_all": False,
        "task": {
            "unit": "character",
            "cell": "lstm",
            "hidden": 16,
            "layers": 1,
            "dropout": 0.1,
            "text_sha256": "ab" * 32,
        },
        "dense_task": {"unit": "character", "cell": "lstm", "hidden": 16, "layers": 1, "dropout": 0.3},
        "train": {"epochs": 10, "lr": 15.0, "max_grad_norm": 0.25, "seed": 3, "updates_per_epoch": 4},
        "space": {
            "allocation": ["uniform", "er"],
            "drop_scope": list(SCOPES),
            "redistribute": ["none", "nonzeros"],
            "drop_fraction": {"low": 0.3, "high": 0.8, "step": 0.1},
        },
        "spectrum": {"state": "h", "warmup": 20},
    }
    return settings | changes


def config(index: int) -> dict[str, str | float]:
    return {
        "allocation": ("uniform", "er")[index % 2],
        "drop_scope": SCOPES[index % 3],
        "redistribute": ("none", "nonzeros")[index // 2 % 2],
        "drop_fraction": round(0.3 + 0.1 * (index % 6), 1),
    }


def epoch_record(
    index: int | None, epoch: int, settings: dict[str, Any], *, spectra_until: int | None = 3
) -> EpochRecord:
    """An invented network: better for a larger index that is a multiple of 5 modulo 12; None is the dense one."""
    quality = 0.0 if index is None else (5 * index % 12) / 12
    noise = np.random.default_rng([epoch, 99 if index is None else index])
    loss = 1.55 + 0.1 * quality + (2.9 + quality) * math.exp(-1.1 * epoch) + 0.01 * noise.normal()
    if index is None:
        loss += 0.03 * max(0, epoch - 7)
    spectrum: list[float | None] = []
    if spectra_until is None or epoch <= spectra_until:
        base = -0.15 - 0.05 * epoch - np.linspace(0, 2.2, 16) ** 1.5 * (1 + 0.4 * quality / (1 + 0.2 * epoch))
        order = np.random.default_rng(0).permutation(16)
        spectrum = [*(base + 0.02 * noise.normal(size=16))[order].tolist()]
        if index == 4:
            spectrum[3] = None  # a dead unit
    rows = {} if index is None else TENSORS
    density = {name: [min(1.0, 0.2 + 0.05 * noise.random() + 0.01 * epoch)] * groups for name, groups in rows.items()}
    active = PRUNABLE if index is None else round(PRUNABLE * (1 - settings["sparsity"]))
    return EpochRecord(epoch, loss + 0.1 if epoch else None, loss, active, density, 0.1, 0.5, 1.5, tuple(spectrum))


def final_result(name: str, settings: dict[str, Any]) -> FinalResult:
    records = [epoch_record(index_of(name), epoch, settings) for epoch in range(1, settings["train"]["epochs"] + 1)]
    best = min(records, key=lambda record: record.valid_loss)
    sha256 = f"{index_of(name) or 0:064d}"
    return FinalResult(name, best.epoch, best.valid_loss, best.valid_loss + 0.02, best.active, sha256)


def index_of(name: str) -> int | None:
    return None if name == DENSE else int(name[1:]) - 1


def invent_run(
    folder: Path,
    *,
    until: str = "all",
    failing: tuple[str, ...] = (),
    spectra_until: int | None = 3,
    **changes: Any,
) -> Path:
    """Write the ledger of an invented search.

    Args:
        folder: of the run.
        until: "header", "pool" (all candidates trained to the first rung), "rounds" (all rounds held) or "all".
        failing: candidates that fail after the first epoch.
        spectra_until: the last epoch with spectra; None for all.
        changes: of the settings.
    """
    settings = identity(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    ledger, plan = Ledger(folder), recorded_plan(settings)
    ledger.append(Header(settings, {"hyperpruning": "0.1.0", "python": "3.11.2", "torch": "2.6.0"}, PERPLEXITY))
    record = partial(epoch_record, settings=settings, spectra_until=spectra_until)
    while actions := decide(plan, history := read(folder)):
        held = len(history.rounds) == len(plan.rungs) * len(plan.criteria)
        if until == "header" or (until == "pool" and isinstance(actions[0], Record)) or (until == "rounds" and held):
            break
        for action in actions:
            known = history.epochs.get(action.network, {}) if isinstance(action, Train) else {}
            for fact in _facts(action, known, settings, record, failing):
                ledger.append(fact)
    return folder


def _facts(
    action: Action,
    known: dict[int, EpochRecord],
    settings: dict[str, Any],
    record: Callable[[int | None, int], EpochRecord],
    failing: tuple[str, ...],
) -> Iterator[Fact]:
    match action:
        case Suggest():
            yield from (Candidate(name, action.batch, config(index_of(name) or 0)) for name in action.names)
        case Record():
            yield action.fact
        case Finish():
            yield from (Winner(criterion, name) for criterion, name in action.winners.items())
        case Train():
            for epoch in range(action.until + 1):
                if action.network in failing and epoch == 2:
                    yield Failure(action.network, "A loss is finite <and> was nan.")
                    return
                if epoch not in known:
                    yield Epoch(action.network, record(index_of(action.network), epoch))
            if action.until == settings["train"]["epochs"]:
                yield final_result(action.network, settings)
