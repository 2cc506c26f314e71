"""Observers that show a search in other tools: TensorBoard, and Optuna's storage for optuna-dashboard.

An observer is a function of a new fact: give it to `hyperprune` as `on_fact`, or let `hyperprune watch` give it the
facts of a run folder. It only writes; a search never reads what it wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hyperpruning.report.components import LATENCY
from hyperpruning.report.run import in_words
from hyperpruning.search.history import (
    DENSE,
    SMALL,
    Candidate,
    Epoch,
    Fact,
    Failure,
    FinalResult,
    Header,
    RoundDecision,
    Winner,
)
from hyperpruning.search.ledger import LEDGER, LedgerReader
from hyperpruning.search.mirror import mirror_of
from hyperpruning.training.record import EpochRecord, Metric

Observer = Callable[[Fact], None]


def tensorboard(folder: Path) -> Observer:
    """An observer that writes event files for TensorBoard, one folder for each network.

    Args:
        folder: must be empty or not exist, because events that are written twice are shown twice.

    Raises:
        ValueError: the folder is not empty, or the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard must be installed for its files, got none. Install it: pip install "
            "'hyperpruning[tensorboard]'."
        ) from None
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"The folder for TensorBoard must be empty, got {folder} with files. Give another one.")
    metric, given = [Metric()], dict[str, str]()

    def write(network: str, put: Callable[[Any], object]) -> None:
        writer: Any = SummaryWriter(str(folder / network))  # closed at once: thousands of networks may be open else
        put(writer)
        writer.close()

    def on_fact(fact: Fact) -> None:
        match fact:
            case Header():
                metric[0] = fact.metric
                given.update({"allocation": LATENCY} if fact.identity.get("latency") is not None else {})
            case Candidate():
                write(fact.name, lambda writer: writer.add_text("config", in_words(fact.config | given)))
            case Epoch(network, record):
                values = _scalars(record, metric[0])
                write(network, lambda writer: [writer.add_scalar(n, v, record.epoch) for n, v in values.items()])
            case RoundDecision():
                for name, score in fact.scores.items():
                    write(name, partial(_put_score, fact, score))
            case FinalResult():
                write(fact.network, lambda writer: writer.add_scalar("test_loss", fact.test_loss, fact.best_epoch))
            case Failure():
                write(fact.network, lambda writer: writer.add_text("failure", fact.reason))

    return on_fact


def _put_score(decision: RoundDecision, score: float, writer: Any) -> None:
    writer.add_scalar(f"score {decision.criterion}", score, decision.epoch)


def _scalars(record: EpochRecord, metric: Metric) -> dict[str, float]:
    """The numbers of an epoch by name."""
    exponents = [value for value in record.spectrum if value is not None]
    values = {
        "train_loss": record.train_loss,
        "valid_loss": record.valid_loss,
        f"valid {metric.name}": metric.value(record.valid_loss, record.valid_metric),
        "averaged_loss": record.averaged_loss,
        "churn": record.churn,
        "ever_active": record.ever_active,
        "largest exponent": max(exponents, default=None),
        "mean exponent": sum(exponents) / len(exponents) if exponents else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def optuna_storage(url: str, name: str) -> Observer:
    """An observer that mirrors a search into a storage of Optuna, for optuna-dashboard: a trial for each candidate.

    A candidate that no criterion keeps is a pruned trial; a finalist's value is its validation loss. A mirror that was
    interrupted continues.

    Args:
        url: of the storage, e.g. "sqlite:///optuna.db".
        name: of the study.

    Raises:
        ValueError: the storage cannot be opened.
    """
    mirror = mirror_of(url, name)
    criteria: list[str] = []
    dropped: dict[str, set[str]] = {}
    winners: set[str] = set()
    all_trained = False

    def on_fact(fact: Fact) -> None:
        nonlocal all_trained
        match fact:
            case Header():
                criteria[:] = fact.identity.get("criteria", [])
                all_trained = fact.identity.get("train_all", False)
                mirror.begin(fact.identity.get("space", {}))
            case Candidate():
                mirror.start(fact.name, fact.config)
            case Epoch(network, record) if network not in (DENSE, SMALL):
                mirror.report(network, record.epoch, record.valid_loss)
            case RoundDecision():
                for one in fact.dropped:
                    dropped.setdefault(one, set()).add(fact.criterion)
                    if dropped[one].issuperset(criteria):
                        mirror.end(one, "pruned")
            case FinalResult() if fact.network not in (DENSE, SMALL):
                mirror.end(fact.network, "complete", fact.valid_loss)
            case Failure() if fact.network not in (DENSE, SMALL):
                mirror.end(fact.network, "fail")
            case Winner():
                winners.add(fact.criterion)
                if winners.issuperset(criteria) and not all_trained:  # a stopping rule may have left some untrained
                    for one in list(mirror.trials):
                        mirror.end(one, "pruned")

    return on_fact


def follow(folder: Path, *, every: float = 2.0) -> Iterator[Fact]:
    """The facts of a run folder as they are written, until every criterion has a winner.

    Args:
        folder: of the run; the search may not have begun.
        every: seconds between two looks; 0 reads once what is there.
    """
    reader, criteria = LedgerReader(folder), {""}
    winners: set[str] = set()
    while criteria - winners:
        if every == 0 or (folder / LEDGER).exists():
            for fact in reader.new_facts():
                if isinstance(fact, Header):
                    criteria = set(fact.identity.get("criteria", []))
                if isinstance(fact, Winner):
                    winners.add(fact.criterion)
                yield fact
        if every == 0:
            return
        time.sleep(every)
