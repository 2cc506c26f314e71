"""The data of a report: the ledger of a run folder, and the plan in its header."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.report.components import LATENCY, criterion_name, with_defaults
from hyperpruning.search.actions import Action
from hyperpruning.search.finalists import winner
from hyperpruning.search.forecast import epochs_of_one_search, planned_epochs
from hyperpruning.search.history import DENSE, SMALL, FinalResult, Header, History
from hyperpruning.search.ledger import LEDGER, LedgerReader, RunFolderError
from hyperpruning.search.plan import BEST, Plan, recorded_plan
from hyperpruning.search.schedulers import decide
from hyperpruning.search.scoring import reference
from hyperpruning.search.space import is_method_setting
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.training.record import EpochRecord, Metric

WINNER = "winner.safetensors"
LEARNT = 0.01  # a dense network that has learnt something is at least by this fraction below the baseline's loss


@dataclass(frozen=True, eq=False)
class Run:
    """A search, finished or not.

    Attributes:
        folder: the run folder.
        history: the content of its ledger.
        header: the first line of the ledger.
        plan: the plan of the search, without its tasks.
    """

    folder: Path
    history: History
    header: Header
    plan: Plan

    @property
    def metric(self) -> Metric:
        """The metric of the task."""
        return self.header.metric

    @property
    def epochs(self) -> int:
        """Length of a full training."""
        return self.plan.train.epochs

    @property
    def n_candidates(self) -> int:
        """Number of candidates: those that exist after sampling; before that, the number in the plan."""
        return len(self.history.candidates) if self.history.rounds else self.plan.n_candidates

    @property
    def keep(self) -> list[int]:
        """Candidates that each criterion keeps at each rung."""
        return [min(keep, self.n_candidates) for keep in self.plan.keep]

    @property
    def prunable(self) -> int | None:
        """Number of prunable weights, from the dense network; None before it has a record."""
        records = self.history.epochs.get(DENSE, {})
        return next((record.active for record in records.values()), None)

    @property
    def completed(self) -> list[str]:
        """Candidates trained to the end."""
        return [name for name in self.history.candidates if name in self.history.finals]

    @property
    def all_trained(self) -> bool:
        """Whether every candidate was trained to the end or failed."""
        known = {*self.history.finals, *self.history.failures}
        return len(self.history.candidates) == self.n_candidates and known.issuperset(self.history.candidates)

    @cached_property
    def actions(self) -> Sequence[Action]:
        """The next actions of the search, from `decide`; empty when it is finished."""
        return decide(self.plan, self.history)

    @property
    def finished(self) -> bool:
        """Whether the search has nothing left to do."""
        return not self.actions

    @cached_property
    def planned_epochs(self) -> int:
        """Epochs of all networks at the end of the search; an estimate until the last round is decided."""
        return planned_epochs(self.plan, self.history)

    @cached_property
    def search_epochs(self) -> int:
        """Epochs that the search by one criterion alone trains with one seed, without the dense reference's."""
        one_seed = replace(self.plan, finalist_seeds=1, clear_level=None)
        return epochs_of_one_search(one_seed, self.plan.criteria[0], self.n_candidates)

    @cached_property
    def seed_epochs(self) -> int:
        """Epochs that the further seeds of its finalists take."""
        return epochs_of_one_search(self.plan, self.plan.criteria[0], self.n_candidates) - self.search_epochs

    @cached_property
    def winner(self) -> str | None:
        """The network of ``winner.safetensors``; None before it is known."""
        return winner(self.plan, self.history)

    @property
    def why(self) -> str:
        """Why the winner is the winner, in words."""
        if self.history.choice is not None:
            by = self.history.choice.criterion
            return "chosen after the search" + (f" as the winner by {criterion_name(by)}" if by else "")
        if self.plan.winner == BEST:
            return "the finalist with the lowest validation loss"
        return f"the winner by {criterion_name(self.plan.winner)}, as the setting winner asks"

    def records(self, network: str) -> Mapping[int, EpochRecord]:
        """A network's records by epoch; those of a frozen dense reference are the same at every epoch."""
        return reference(self.plan, self.history) if network == DENSE else self.history.epochs.get(network, {})

    def size(self, network: str) -> int | None:
        """The size of a network's model file in bytes; None if the run folder has none."""
        path = self.folder / file_of(network)
        return path.stat().st_size if network in (DENSE, SMALL, self.winner) and path.is_file() else None

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know: a dense reference that learnt nothing, an early stop, what failed."""
        found, final = [], self.history.finals.get(DENSE)
        baseline = self.header.baseline_loss
        if final is not None and baseline is not None and baseline - final.valid_loss < LEARNT * abs(baseline):
            found.append(
                f"The dense network has learnt nothing: its validation loss of {final.valid_loss:.4f} nats is not "
                f"{100 * LEARNT:.0f} % below the {baseline:.4f} of the best constant prediction. Change the model or "
                "the training: until the dense network learns, comparisons of pruned ones mean nothing."
            )
        exponents = [one for record in self.records(DENSE).values() for one in record.exponents]
        if exponents and max(exponents) == -math.inf:
            found.append(
                "All exponents of the dense network are -inf, so that the LS distance says nothing. See that the step "
                "does not detach its state, and that the rows of a batch do not depend on each other."
            )
        found += dict.fromkeys(stop.reason for stop in self.history.stops.values())
        if self.plan.as_many_weights and (reason := self.history.failures.get(SMALL)):
            found.append(f"The dense network with as many weights is missing: {reason}")
        return found

    def distance(self, one: Sequence[float], two: Sequence[float], kind: str | None = None) -> float:
        """The distance between two spectra; by default of the kind that this search uses."""
        return float(spectrum_distance(one, two, kind=kind or self.plan.distance))

    def method(self, network: str) -> str:
        """A network's method in words."""
        if network in (DENSE, SMALL):
            return "none" if network == SMALL or self.plan.dense is None else "none, trained before"
        return in_words(self.config(network))

    def config(self, network: str) -> dict[str, Any]:
        """A candidate's config as it is shown: with a latency target, that it gives the allocation."""
        config = self.history.candidates[network].config
        return dict(config) if self.plan.latency is None else config | {"allocation": LATENCY}

    def value(self, record: EpochRecord) -> float:
        """The metric on the validation split after an epoch."""
        return self.metric.value(record.valid_loss, record.valid_metric)

    def valid(self, final: FinalResult) -> float:
        """The metric of a final result on the validation split."""
        return self.metric.value(final.valid_loss, final.valid_metric)

    def test(self, final: FinalResult) -> float:
        """The metric of a final result on the test split."""
        return self.metric.value(final.test_loss, final.test_metric)


def read_run(folder: Path) -> Run:
    """Read a run folder; of a ledger that was read before only what is new.

    Raises:
        RunFolderError: there is no ledger, its first line is missing, or it is from another version.
    """
    reader, last = _reader(folder)
    with _reading:  # a live table reads in a thread of its own
        before, history = reader.stamp, reader.read()
        if reader.stamp != before or "run" not in last:
            last["run"] = _run(folder, history)
    return last["run"]


_reading = Lock()


@lru_cache(maxsize=4)
def _reader(folder: Path) -> tuple[LedgerReader, dict[str, Run]]:
    """The reader of a ledger, and a place for what was read last."""
    return LedgerReader(folder), {}


def _run(folder: Path, history: History) -> Run:
    if history.header is None:
        raise RunFolderError(
            f"A ledger must begin with the settings of its search, got {folder / LEDGER} without. Resume the search."
        )
    try:
        plan = recorded_plan(history.header.identity)
    except ValueError as error:
        raise RunFolderError(
            f"{folder / LEDGER} is from another version: {error} Use the version that started the search."
        ) from None
    return Run(folder, history, history.header, plan)


def file_of(network: str) -> str:
    """The name of the model file of the dense networks, and of a candidate that is the winner."""
    return f"{network}.safetensors" if network in (DENSE, SMALL) else WINNER


def in_words(config: Mapping[str, Any]) -> str:
    """A method in words: its name, or its main components and all others that are not the default.

    >>> in_words({"allocation": "er", "drop_scope": "global", "redistribute": "nonzeros", "drop_fraction": 0.7})
    'er, global magnitude, random, nonzeros, f = 0.7'
    >>> in_words({"weight_init": "fan_in"})
    'uniform, magnitude, random, none, f = 0.5, fan_in'
    >>> in_words({"method": "rigl", "training.lr": 0.1})
    'rigl, training.lr = 0.1'
    """
    return _in_words(tuple(config.items()))


@lru_cache(maxsize=16_384)
def _in_words(items: tuple[tuple[str, str | float], ...]) -> str:
    config = dict(items)
    try:
        values: dict[str, Any] = with_defaults(config)
    except (ValueError, TypeError):  # a component that this version does not know
        return ", ".join(f"{name} = {value}" for name, value in config.items())
    default = _default_method()
    settings = [f"{name} = {value}" for name, value in config.items() if not is_method_setting(name)]
    main = ("allocation", "drop", "drop_scope", "grow", "redistribute", "drop_fraction")
    named = config.get("method")
    if named is not None:
        return ", ".join([str(named), *(f"{name} = {value}" for name, value in config.items() if name != "method")])
    others = [
        str(value) if name == "weight_init" else f"{name} = {value}"
        for name, value in values.items()
        if name not in main and value != default.get(name)
    ]
    if values["drop"] == "none":
        return ", ".join([str(values["allocation"]), "static", *others, *settings])
    drop = " ".join(str(values[name]) for name in ("drop_scope", "drop") if values[name] != "tensor")
    parts = (values["allocation"], drop, values["grow"], values["redistribute"])
    return ", ".join([*map(str, parts), f"f = {values['drop_fraction']:g}", *others, *settings])


@lru_cache(maxsize=1)
def _default_method() -> dict[str, Any]:
    return to_config(Method())


def winners_by_network(run: Run) -> dict[str, list[str]]:
    """The winners: network -> the criteria that selected it, in their order."""
    chosen: dict[str, list[str]] = {}
    for criterion in run.plan.criteria:
        if criterion in run.history.winners:
            chosen.setdefault(run.history.winners[criterion], []).append(criterion)
    return chosen
