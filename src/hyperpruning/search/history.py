"""The content of a ledger: a frozen dataclass for each line, and `History` with all of them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hyperpruning.search.space import Config, method_config
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.tabulation import data_frame, html_table
from hyperpruning.training.record import EpochRecord, Metric

DENSE = "dense"
SMALL = "small"  # the dense network with as many weights as the pruned ones


@dataclass(frozen=True)
class Header:
    """The first line of a ledger, which identifies the search.

    Attributes:
        identity: all settings that the result depends on, from `Plan.identity`.
        versions: of the packages, and the device type.
        metric: the metric of the task.
        baseline_loss: validation loss of the best constant prediction, nats; None if the task does not offer it.
    """

    identity: Mapping[str, Any]
    versions: Mapping[str, str]
    metric: Metric = field(default_factory=Metric)
    baseline_loss: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A config of the search space, with a name.

    Attributes:
        name: "c01", "c02", ... in the order of suggestion.
        batch: number of the batch, from 0, in which the sampler suggested it.
        config: the values of the dimensions.
    """

    name: str
    batch: int
    config: Config

    @property
    def method(self) -> Method:
        """The pruning method that the config describes."""
        return from_config(method_config(self.config))


def candidate_and_seed(network: str) -> tuple[str, int]:
    """The candidate of a network's name, and the number of its seed, from 1.

    >>> candidate_and_seed("c05"), candidate_and_seed("c05s2")
    (('c05', 1), ('c05', 2))
    """
    name, _, seed = network.partition("s") if network[0] == "c" else (network, "", "")
    return name, int(seed or 1)


@dataclass(frozen=True)
class Epoch:
    """A network after an epoch."""

    network: str
    record: EpochRecord


@dataclass(frozen=True)
class RoundDecision:
    """The decision of one criterion at one rung.

    Attributes:
        criterion: a key of `CRITERIA`.
        round: number of the rung, from 0.
        epoch: of the rung.
        scores: by candidate, smaller is better.
        kept, dropped: candidates, best first.
    """

    criterion: str
    round: int
    epoch: int
    scores: Mapping[str, float]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Promotion:
    """A criterion lets a candidate train on from a rung before all others have reached it (ASHA).

    Attributes:
        criterion: by which it is among the best.
        round: number of the rung, from 0.
        network: the candidate.
    """

    criterion: str
    round: int
    network: str


@dataclass(frozen=True)
class FinalResult:
    """A network at the end of a full training.

    Attributes:
        network: "dense", "small" or a candidate's name.
        best_epoch: the epoch with the lowest validation loss; the weights are from this epoch. 0 for a frozen network.
        valid_loss, test_loss: loss of these weights, nats.
        active: active prunable weights.
        sha256: of the weights.
        valid_metric, test_metric: the task's metric; None if it follows from the loss.
    """

    network: str
    best_epoch: int
    valid_loss: float
    test_loss: float
    active: int
    sha256: str
    valid_metric: float | None = None
    test_metric: float | None = None


@dataclass(frozen=True)
class Failure:
    """A network that diverged or could not be built, and why."""

    network: str
    reason: str


@dataclass(frozen=True)
class Winner:
    """The winner by one criterion: its best finalist."""

    criterion: str
    network: str


@dataclass(frozen=True)
class Stopped:
    """A stopping rule chose the winner of a criterion before all its finalists were trained as planned.

    Attributes:
        criterion: whose finalists.
        rule: the setting that asks for it, "target_loss" or "clear_level".
        network: the finalist that wins, unless its training fails later.
        reason: in words, with the numbers.
    """

    criterion: str
    rule: str
    network: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The network that the user chose for ``winner.safetensors`` after the search; the last choice counts.

    Attributes:
        network: a candidate.
        criterion: whose winner it is; None if the candidate was named.
    """

    network: str
    criterion: str | None = None


@dataclass(frozen=True)
class SpaceExhausted:
    """The sampler found no more valid configs than `n_candidates`."""

    n_candidates: int


Fact = (
    Header
    | Candidate
    | Epoch
    | Promotion
    | RoundDecision
    | FinalResult
    | Failure
    | Stopped
    | Winner
    | Choice
    | SpaceExhausted
)


@dataclass
class History:
    """The content of a ledger. `decide` depends on the plan and on this only.

    Attributes:
        header: the first line, which identifies the search; None before it is written.
        candidates: by name, in the order of suggestion.
        space_exhausted: whether the sampler found fewer configs than the plan asks for.
        epochs: records by network ("dense", "small" or a candidate's name) and epoch.
        promotions: candidates by (criterion, number of the rung), in the order of their promotion (ASHA).
        rounds: decisions by (criterion, number of the round).
        finals: results by network trained to the end.
        failures: reasons by network that diverged or could not be built.
        stops: by criterion whose finalists were not all trained as planned.
        winners: networks by criterion.
        choice: of the user after the search; None if there was none.
    """

    header: Header | None = None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    space_exhausted: bool = False
    epochs: dict[str, dict[int, EpochRecord]] = field(default_factory=dict)
    promotions: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    rounds: dict[tuple[str, int], RoundDecision] = field(default_factory=dict)
    finals: dict[str, FinalResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stops: dict[str, Stopped] = field(default_factory=dict)
    winners: dict[str, str] = field(default_factory=dict)
    choice: Choice | None = None
    memo: Any = field(default=None, init=False, repr=False, compare=False)  # search/memo.py: saves time only
    _trained: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def add(self, fact: Fact) -> None:
        """Add a fact."""
        match fact:
            case Header():
                self.header = fact
            case Candidate():
                self.candidates[fact.name] = fact
            case Epoch():
                self.epochs.setdefault(fact.network, {})[fact.record.epoch] = fact.record
            case Promotion():
                before = self.promotions.get((fact.criterion, fact.round), ())
                self.promotions[fact.criterion, fact.round] = tuple(dict.fromkeys((*before, fact.network)))
            case RoundDecision():
                self.rounds[fact.criterion, fact.round] = fact
            case FinalResult():
                self.finals[fact.network] = fact
            case Failure():
                self.failures[fact.network] = fact.reason
            case Stopped():
                self.stops[fact.criterion] = fact
            case Winner():
                self.winners[fact.criterion] = fact.network
            case Choice():
                self.choice = fact
            case SpaceExhausted():
                self.space_exhausted = True

    def trained(self, network: str) -> int:
        """The last epoch of a network such that no record up to it is missing; -1 for none."""
        records = self.epochs.get(network, {})
        count, epoch = self._trained.get(network, (0, -1))
        epoch = epoch if count <= len(records) else -1
        while epoch + 1 in records:
            epoch += 1
        self._trained[network] = len(records), epoch
        return epoch

    def at(self, epoch: int, names: Container[str] | None = None) -> dict[str, EpochRecord]:
        """The records of the candidates, or of some of them, after one epoch; one that failed earlier has none."""
        return {
            name: self.epochs[name][epoch]
            for name in self.candidates
            if (names is None or name in names) and epoch in self.epochs.get(name, {})
        }

    def trained_epochs(self, *, dense: bool = True) -> int:
        """Epochs trained, all networks together; with or without the dense networks."""
        return sum(max(0, self.trained(name)) for name in self.epochs if dense or name not in (DENSE, SMALL))

    def to_frame(self) -> Any:
        """The records as a pandas DataFrame: one row for each network and epoch.

        Columns: network, epoch; train_loss, valid_loss and averaged_loss in nats; the task's metric by its name;
        active, churn, ever_active; spectrum (a tuple of exponents, nats per step); and for each setting of a candidate
        "config_" and its name. What a network does not have is missing.

        Raises:
            ImportError: pandas is not installed.
        """
        metric, rows = self._metric, []
        fields = ("train_loss", "valid_loss", "averaged_loss", "active", "churn", "ever_active")
        for name in self._networks():
            config = self.candidates[name].config if name in self.candidates else {}
            for epoch, record in sorted(self.epochs.get(name, {}).items()):
                row = {"network": name, "epoch": epoch} | {field: getattr(record, field) for field in fields}
                row[metric.name] = metric.value(record.valid_loss, record.valid_metric)
                row["spectrum"] = tuple(record.exponents)
                rows.append(row | {f"config_{key}": value for key, value in config.items()})
        return data_frame(rows)

    def __repr__(self) -> str:
        if self.header is None:
            return "History(empty)"
        winners = [f"{name} by {criterion}" for criterion, name in self.winners.items()]
        said = f"{len(self.candidates)} candidates, {self.trained_epochs()} epochs trained"
        said += f", {len(self.failures)} failed" if self.failures else ""
        return f"History({said}; {'winners: ' + ', '.join(winners) if winners else 'no winner yet'})"

    def _repr_html_(self) -> str:
        metric, rows = self._metric, []
        for name in self._networks():
            config = self.candidates[name].config if name in self.candidates else {}
            records, final = self.epochs.get(name, {}), self.finals.get(name)
            last = records[max(records)] if records else None
            outcomes = [f"winner by {criterion}" for criterion, winner in self.winners.items() if winner == name]
            outcomes += [f"failed: {self.failures[name]}"] if name in self.failures else []
            row = [name, ", ".join(f"{key} = {value}" for key, value in config.items()), str(max(records, default=0))]
            row += ["" if last is None else f"{metric.value(last.valid_loss, last.valid_metric):.2f}"]
            row += ["" if final is None else f"{metric.value(final.test_loss, final.test_metric):.2f}"]
            rows.append([*row, "; ".join(outcomes)])
        headings = ["network", "config", "epochs", f"last valid {metric.name}", f"test {metric.name}", "outcome"]
        return html_table(repr(self), headings, rows)

    @property
    def _metric(self) -> Metric:
        return Metric() if self.header is None else self.header.metric

    def _networks(self) -> list[str]:
        """The dense networks that have records or failed, then the candidates."""
        dense = [name for name in (DENSE, SMALL) if name in self.epochs or name in self.failures]
        return [*dense, *self.candidates]

    def copy(self) -> History:
        """A copy; adding to it does not change this history."""
        copied = replace(self, epochs={name: dict(records) for name, records in self.epochs.items()})
        for name in ("candidates", "promotions", "rounds", "finals", "failures", "stops", "winners"):
            setattr(copied, name, dict(getattr(self, name)))
        return copied
