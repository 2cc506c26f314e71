"""The plan: all settings of a search in one frozen dataclass; search/validation.py checks it before training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.search.brackets import SCHEDULERS, Bracket, brackets_of, most_epochs, rungs_of
from hyperpruning.search.criteria import AVERAGED, CRITERIA, FOLLOWING, MIN_FOLLOWED, SPECTRAL, criterion_of
from hyperpruning.search.latency import StepTimes, check_latency
from hyperpruning.search.references import FrozenDense, frozen_dense
from hyperpruning.search.samplers import SAMPLERS, NamedSampler, check_sampler_name, name_of_sampler
from hyperpruning.search.space import SPARSITY, SearchSpace, space_from_identity
from hyperpruning.settings import check_settings, described, did_you_mean, documented, setting
from hyperpruning.training.checkpoint import KEEP_CHECKPOINTS
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.own_loop import complete_config
from hyperpruning.training.record import Metric
from hyperpruning.training.task import AnyTask, metric_of

BEST = "best"
DENSE_LOSS = "dense"
LOSS_ALONE = ("loss",)
# the second objective of a search: what it is called
COSTS = {"active": "active weights", "multiply_adds": "multiply-adds", "latency": "predicted microseconds of a step"}
# settings that results do not depend on: a run may be continued with others
NOT_IN_IDENTITY = ("max_hours", "checkpoint_minutes", "keep_checkpoints")


# settings at values that ledgers from before they existed stand for, so that these can be continued
NOT_IN_OLDER = (
    ("objectives", LOSS_ALONE),
    ("latency", None),
    ("latency_precision", "exact"),
    ("step_times", None),
)


def check_target(target: float | str) -> None:
    """Check a target of a search.

    Raises:
        ValueError: it is neither a finite number nor the loss of the dense reference.
    """
    if target != DENSE_LOSS and (isinstance(target, str | bool) or not math.isfinite(target)):
        raise ValueError(f'target_loss must be a finite number or "{DENSE_LOSS}", got {target!r}. Give a loss in nats.')


@documented
@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole search.

    Raises:
        ValueError: a value is out of its range; `validate` checks the rest.
    """

    task: AnyTask | None = described("what the candidates learn; None in a plan that was read from a ledger")
    dense_task: AnyTask | None = described("the task of the dense reference, e.g. with another dropout")
    dense: nn.Module | Mapping[str, Tensor] | FrozenDense | Path | str | None = described(
        "a trained dense network (a module, its state_dict or a model file): the reference, not trained further; None "
        "trains one",
        None,
    )
    train: TrainConfig = described(
        "how each network is trained, completed by the recipe of the task; its seed is that of the search"
    )
    sparsity: float = setting(
        0.8, "fraction of zero weights over the prunable weights, exact", section="pruning", ge=0, lt=1
    )
    latency: str | None = setting(
        None,
        'target for a step of the decoder, batch 1: "0.3x" of the dense network\'s, or "40us"; the times are measured '
        "here, before the search, and give each weight matrix its number of weights, in place of sparsity and "
        "allocation; left out: none",
        section="pruning",
        check=check_latency,
    )
    latency_precision: str = setting(
        "exact",
        'of the decoder whose times are measured: "exact" or "int8"',
        section="pruning",
        choices=("exact", "int8"),
    )
    step_times: StepTimes | None = described("measured times of a step; None: measured when they are needed", None)
    space: SearchSpace = described("what a candidate's config may be")
    n_candidates: int = setting(12, "candidates", section="search", ge=2, le=100_000)
    ask_batch: int = setting(6, "candidates asked of the sampler at a time", section="search", ge=1)
    sampler: Any = setting(
        "tpe",
        f"one of {', '.join(SAMPLERS)}; in Python also a sampler of Optuna",
        section="search",
        check=check_sampler_name,
    )
    scheduler: str = setting(
        "rounds",
        '"rounds" compares candidates at rungs and keeps keep; "halving" and "hyperband" follow from min_epochs and '
        'reduction_factor; "asha" is halving without waiting: with several workers the order of arrival counts',
        section="search",
        choices=SCHEDULERS,
    )
    rungs: tuple[int, ...] = setting(
        (2, 3), "epochs after which candidates are compared and eliminated (rounds)", section="search", ge=0
    )
    keep: tuple[int, ...] = setting(
        (5, 2), "candidates that each criterion keeps at each rung (rounds)", section="search", ge=1
    )
    min_epochs: int = setting(1, "epochs before the first rung (halving, hyperband, asha)", section="search", ge=1)
    reduction_factor: int = setting(
        3,
        "the best 1/reduction_factor are kept, and train so many times longer (halving, hyperband, asha)",
        section="search",
        ge=2,
    )
    max_epochs: int | None = setting(
        None,
        "budget: n_candidates is lowered until all networks together train at most so many epochs; left out: none",
        section="search",
        ge=1,
    )
    finalist_seeds: int = setting(
        1,
        "trainings of each finalist, with different seeds; the winner has the best mean",
        section="search",
        ge=1,
        le=100,
    )
    target_loss: float | str | None = setting(
        None,
        "validation loss in nats at which a search ends: as soon as a finalist has it after an epoch, the other "
        f'finalists stop, and this one trains to the end; "{DENSE_LOSS}": the loss of the dense reference at its end; '
        "left out: none",
        section="search",
        check=check_target,
    )
    clear_level: float | None = setting(
        None,
        "level of a paired t-test over seeds: when the leading finalist is ahead of the others by more than their "
        "scatter, no further seeds are trained; needs finalist_seeds of at least 3; left out: none",
        section="search",
        gt=0,
        lt=0.5,
    )
    criteria: tuple[str, ...] = setting(
        ("ls", "loss", "averaged_loss"),
        f'selection criteria, of {", ".join(CRITERIA)}, or joined: "ls + loss" (sum of ranks), "ls * loss" (product), '
        '"ls then loss" (by rung); the first guides the sampler',
        section="search",
        check=criterion_of,
    )
    objectives: tuple[str, ...] = setting(
        LOSS_ALONE,
        f'["loss"]: a rung keeps the best scores of a criterion; with a second one of {", ".join(COSTS)}: the best '
        "Pareto fronts of score and this cost, for a space with several sparsities or sizes; the sampler learns from "
        "both",
        section="search",
        choices=(*LOSS_ALONE, *COSTS),
    )
    n_followed: int = setting(
        0,
        "first candidates that are trained to the last rung before any decision; they tell the criterion calibrated "
        "which early criterion foretold their losses (8 are enough)",
        section="search",
        ge=0,
    )
    winner: str = setting(
        BEST,
        "whose winner is exported: a criterion's, or best: the finalist of all with the lowest validation loss",
        section="search",
    )
    as_many_weights: bool = setting(
        True, "also train a dense network with as many weights as the pruned ones, for comparison", section="search"
    )
    train_all: bool = setting(
        False, "train the eliminated candidates to the end too, to see what was missed", section="search"
    )
    max_hours: float | None = setting(
        None,
        "budget in wall-clock time of one call: the running step ends, a checkpoint is written, and the search can be "
        "continued; left out: none",
        section="search",
        gt=0,
        le=1e6,
    )
    checkpoint_minutes: float = setting(
        5.0,
        "wall-clock time between two checkpoints within an epoch; results do not depend on it",
        section="search",
        ge=0,
        le=1e6,
    )
    keep_checkpoints: int = setting(
        KEEP_CHECKPOINTS,
        "last checkpoints that are kept of each network; of an eliminated candidate none, only its records",
        section="search",
        ge=1,
        le=1000,
    )
    distance: str = setting("l2", f"between spectra: {', '.join(DISTANCES)}", section="spectrum", choices=DISTANCES)
    spectrum: SpectrumConfig = described("how spectra are taken", SpectrumConfig())

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_parts()
        if self.task is not None:
            object.__setattr__(self, "train", complete_config(self.task, self.train))
        self._set_rounds()
        if not self.criteria or len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"criteria must have at least one name and none twice, got {list(self.criteria)}.")
        self._check_records()
        self._check_objectives()
        if self.target_loss is not None and self.scheduler == "asha":
            raise ValueError(
                'target_loss must be left out with scheduler = "asha", whose finalists do not train side by side, got '
                f"{self.target_loss}. Take another scheduler, or leave it out."
            )
        if self.clear_level is not None and self.finalist_seeds < 3:
            raise ValueError(
                f"finalist_seeds must be at least 3 with clear_level, got {self.finalist_seeds}. Raise it, or leave "
                "clear_level out."
            )
        if self.winner not in (BEST, *self.criteria):
            raise ValueError(
                f"winner must be {BEST} or one of the criteria {', '.join(self.criteria)}, got {self.winner!r}."
                f"{did_you_mean(self.winner, (BEST, *self.criteria))}"
            )
        object.__setattr__(self, "dense", frozen_dense(self.dense))

    def brackets(self, n_candidates: int | None = None) -> tuple[Bracket, ...]:
        """How candidates are compared; with another number of candidates if given."""
        return brackets_of(
            self.scheduler,
            self.n_candidates if n_candidates is None else n_candidates,
            self.rungs,
            self.keep,
            first=self.min_epochs,
            factor=self.reduction_factor,
            epochs=self.train.epochs,
        )

    @property
    def dense_epochs(self) -> int:
        """Epochs of the dense networks: the reference, unless it is frozen, and the one with as many weights."""
        return self.train.epochs * ((self.dense is None) + self.as_many_weights)

    def most_epochs(self, n_candidates: int | None = None) -> int:
        """The most epochs that all networks train together: if criteria never agree, and no candidate fails."""
        count = self.n_candidates if n_candidates is None else n_candidates
        brackets = self.brackets(count)
        finalists = sum(
            min(one.count, len(self.criteria) * one.keep[-1]) if one.keep else one.count for one in brackets
        )
        again = finalists * (self.finalist_seeds - 1) * self.train.epochs
        first = most_epochs(brackets, self.train.epochs, len(self.criteria), self.n_followed)
        return self.dense_epochs + again + (count * self.train.epochs if self.train_all else first)

    def _set_rounds(self) -> None:
        """Lower the number of candidates to the budget, and set the rungs that a scheduler computes."""
        if self.max_epochs is not None:
            least = 1 + self.keep[0] if self.scheduler == "rounds" and self.keep else 2
            fitting = [n for n in range(least, self.n_candidates + 1) if self.most_epochs(n) <= self.max_epochs]
            if not fitting:
                raise ValueError(
                    f"max_epochs must be at least {self.most_epochs(least)} for one search of {least} candidates, got "
                    f"{self.max_epochs}. Raise it, or keep fewer candidates."
                )
            object.__setattr__(self, "n_candidates", fitting[-1])
        if self.scheduler != "rounds":
            rungs, keep = rungs_of(self.brackets())
            object.__setattr__(self, "rungs", rungs)
            object.__setattr__(self, "keep", keep)

    def _check_records(self) -> None:
        """Check that the records will have what the criteria need."""
        for criterion in self.criteria:
            words = set(criterion.replace("+", " ").replace("*", " ").split())
            needs = {
                "half_life above 0": (AVERAGED, self.train.half_life > 0),
                "averaged = true in [spectrum]": ({"averaged_ls"}, self.spectrum.averaged),
                f"n_followed at least {MIN_FOLLOWED}": (FOLLOWING, self.n_followed >= MIN_FOLLOWED),
            }
            for need, (names, given) in needs.items():
                if words & names and not given:
                    raise ValueError(f"The criterion {criterion} must have {need}, got less. Set it, or leave it out.")
            at = self.rungs if words & SPECTRAL else ()
            if self.spectrum.epochs and (missing := sorted(set(at) - set(self.spectrum.epochs))):
                raise ValueError(
                    f"The criterion {criterion} must have spectra at the rungs {list(at)}, got none at {missing}. Add "
                    "them to epochs in [spectrum]."
                )
        if self.scheduler == "asha" and self.n_followed:
            raise ValueError(
                f'n_followed must be 0 with scheduler = "asha", which waits for no candidate, got {self.n_followed}. '
                "Take another scheduler or other criteria."
            )
        if self.n_followed > self.n_candidates:
            raise ValueError(
                f"n_followed must be at most n_candidates = {self.n_candidates}, got {self.n_followed}. Lower it."
            )

    def _check_objectives(self) -> None:
        """Check that candidates can differ in every objective, and that the scheduler compares them in all."""
        if self.objectives == LOSS_ALONE:
            return
        if len(self.objectives) != 2 or self.objectives[0] != "loss" or self.objectives[1] not in COSTS:
            raise ValueError(
                f"objectives must be {list(LOSS_ALONE)}, or loss and one of {', '.join(COSTS)}, got "
                f"{list(self.objectives)}. Change it."
            )
        if self.scheduler == "asha":
            raise ValueError(
                'objectives must be ["loss"] with scheduler = "asha", which promotes by score alone, got '
                f"{list(self.objectives)}. Take another scheduler."
            )
        names = {name for config in (self.space.dimensions, *self.space.fixed) for name in config}
        differ = {"active": (), "multiply_adds": ("allocation",), "latency": ("allocation", "granularity")}
        if not any(name in (SPARSITY, *differ[self.objectives[1]]) or name.startswith("task.") for name in names):
            raise ValueError(
                "The search space must have the dimension sparsity or one of the task with objectives = "
                f"{list(self.objectives)}, since otherwise all candidates have as many active weights, got neither. "
                "Add one to [space], or leave objectives out."
            )

    @property
    def needs_step_times(self) -> bool:
        """Whether the times of a step must be measured before the search."""
        return self.latency is not None or "latency" in self.objectives

    def _check_parts(self) -> None:
        for name, kind in (("train", TrainConfig), ("space", SearchSpace), ("spectrum", SpectrumConfig)):
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got a {type(value).__name__}. Create one.")
        for name in ("task", "dense_task"):
            if isinstance(value := getattr(self, name), type):
                raise ValueError(f"{name} must be an object, got the class {value.__name__}. Create one of it.")

    @property
    def metric(self) -> Metric:
        """In which the task tells its results."""
        return Metric() if self.task is None else metric_of(self.task)

    def identity(self) -> dict[str, Any]:
        """All settings that the result depends on, in JSON types; searches with equal identities are equal."""
        assert self.task is not None
        assert self.dense_task is not None
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name not in ("task", "dense_task", "dense", "train", "space", "spectrum", "sampler", *NOT_IN_IDENTITY)
            and (name, value) not in NOT_IN_OLDER
        }
        if self.step_times is not None:
            values["step_times"] = self.step_times.to_json()
        return values | {
            "task": self.task.identity(),
            "dense_task": self.dense_task.identity(),
            "dense": self.dense.sha256 if isinstance(self.dense, FrozenDense) else None,
            "train": asdict(self.train),
            "space": self.space.identity(),
            "spectrum": asdict(self.spectrum),
            "sampler": name_of_sampler(self.sampler),
        }


def recorded_plan(identity: Mapping[str, Any]) -> Plan:
    """The plan of an identity in a ledger, without its tasks.

    Raises:
        ValueError: it is from another version.
    """
    values = {"as_many_weights": False, "winner": identity.get("criteria", [BEST])[0], "dense": None} | dict(identity)
    try:
        space = space_from_identity(values.pop("space"))
        train, spectrum = TrainConfig(**values.pop("train")), SpectrumConfig(**values.pop("spectrum"))
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        plain |= {"task": None, "dense_task": None, "train": train, "spectrum": spectrum}
        plain["sampler"] = plain["sampler"] if plain["sampler"] in SAMPLERS else NamedSampler(str(plain["sampler"]))
        plain["dense"] = None if plain["dense"] is None else FrozenDense(plain["dense"])
        if plain.get("step_times") is not None:
            plain["step_times"] = StepTimes(**plain["step_times"])
        return Plan(**plain, space=space)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The settings must be those of this version of hyperpruning, got others ({error}).") from None


def candidate_name(index: int) -> str:
    """c01, c02, ..."""
    return f"c{index + 1:02d}"


def seed_names(plan: Plan, name: str) -> list[str]:
    """The names of the trainings of a finalist, one for each seed: c05, c05s2, c05s3."""
    return [name, *(f"{name}s{number}" for number in range(2, plan.finalist_seeds + 1))]


def batches(plan: Plan) -> Iterator[list[str]]:
    """The names of the candidates, batch by batch; a batch lies in one bracket."""
    for one in plan.brackets():
        for start in range(one.first, one.first + one.count, plan.ask_batch):
            end = min(start + plan.ask_batch, one.first + one.count)
            yield [candidate_name(index) for index in range(start, end)]


def names_of(bracket: Bracket) -> list[str]:
    """The names of the candidates of a bracket."""
    return [candidate_name(index) for index in range(bracket.first, bracket.first + bracket.count)]
