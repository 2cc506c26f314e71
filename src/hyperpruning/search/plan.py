"""The plan: all settings of a search in one frozen dataclass, and its validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.lyapunov.spectrum import check_has_spectrum
from hyperpruning.search.criteria import CRITERIA, criterion_of
from hyperpruning.search.references import FrozenDense, frozen_dense
from hyperpruning.search.samplers import SAMPLERS
from hyperpruning.search.space import SearchSpace, method_config, space_from_identity
from hyperpruning.settings import check_settings, described, did_you_mean, documented, setting
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.training.checks import check_promises, recurrent_part
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of
from hyperpruning.training.own_loop import complete_config
from hyperpruning.training.pruning import method_checker
from hyperpruning.training.record import Metric
from hyperpruning.training.task import AnyTask, metric_of

BEST = "best"
MAX_CHECKED = 1000  # configs of the space that are checked before anything is trained; larger spaces are sampled


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
    space: SearchSpace = described("what a candidate's config may be")
    n_candidates: int = setting(12, "candidates", section="search", ge=2, le=100_000)
    ask_batch: int = setting(6, "candidates asked of the sampler at a time", section="search", ge=1)
    sampler: str = setting("tpe", f"one of {', '.join(SAMPLERS)}", section="search", choices=SAMPLERS)
    rungs: tuple[int, ...] = setting(
        (2, 3), "epochs after which candidates are compared and eliminated", section="search", ge=0
    )
    keep: tuple[int, ...] = setting((5, 2), "candidates that each criterion keeps at each rung", section="search", ge=1)
    criteria: tuple[str, ...] = setting(
        ("ls", "loss", "rank_sum"),
        f'selection criteria, of {", ".join(CRITERIA)}, or joined: "ls + loss" (sum of ranks), "ls * loss" (product), '
        '"ls then loss" (by rung); the first guides the sampler',
        section="search",
        check=criterion_of,
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
    distance: str = setting("l2", f"between spectra: {', '.join(DISTANCES)}", section="spectrum", choices=DISTANCES)
    spectrum: SpectrumConfig = described("how spectra are taken", SpectrumConfig())

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_parts()
        if self.task is not None:
            object.__setattr__(self, "train", complete_config(self.task, self.train))
        if not self.criteria or len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"criteria must have at least one name and none twice, got {list(self.criteria)}.")
        if self.winner not in (BEST, *self.criteria):
            raise ValueError(
                f"winner must be {BEST} or one of the criteria {', '.join(self.criteria)}, got {self.winner!r}."
                f"{did_you_mean(self.winner, (BEST, *self.criteria))}"
            )
        object.__setattr__(self, "dense", frozen_dense(self.dense))

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
            if name not in ("task", "dense_task", "dense", "train", "space", "spectrum")
        }
        return values | {
            "task": self.task.identity(),
            "dense_task": self.dense_task.identity(),
            "dense": self.dense.sha256 if isinstance(self.dense, FrozenDense) else None,
            "train": asdict(self.train),
            "space": self.space.identity(),
            "spectrum": asdict(self.spectrum),
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
        plain["dense"] = None if plain["dense"] is None else FrozenDense(plain["dense"])
        return Plan(**plain, space=space)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The settings must be those of this version of hyperpruning, got others ({error}).") from None


def candidate_name(index: int) -> str:
    """c01, c02, ..."""
    return f"c{index + 1:02d}"


def batches(plan: Plan) -> Iterator[list[str]]:
    """The names of the candidates, batch by batch."""
    for start in range(0, plan.n_candidates, plan.ask_batch):
        yield [candidate_name(index) for index in range(start, min(start + plan.ask_batch, plan.n_candidates))]


def validate(plan: Plan) -> None:
    """Check a plan before anything is written or trained; all checks are here.

    Raises:
        ValueError: the rounds are invalid, or the space has an unknown name or too few valid methods, or a method does
            not fit the task.
    """
    if plan.task is None or plan.dense_task is None:
        raise ValueError("A plan must have a task and a dense_task, got None (as in a plan from a ledger). Give both.")
    plan.space.check_names()
    check_rounds(n_candidates=plan.n_candidates, rungs=plan.rungs, keep=plan.keep, epochs=plan.train.epochs)
    device_of(plan.train.device)
    for task in (plan.task, plan.dense_task):
        task.steps(0, plan.train.seed)
    if isinstance(plan.dense, Path):
        raise ValueError(f"dense must be weights here, got the file {plan.dense}. Call hp.hyperprune, which reads it.")
    if isinstance(plan.dense, FrozenDense):
        plan.dense.load_into(plan.dense_task.network(plan.train.seed))
    network = check_promises(plan.task, plan.train.seed)
    _check_spectrum(plan.task, network, plan.spectrum)
    if type(plan.dense_task) is not type(plan.task):  # of one class, they differ in settings such as the dropout
        _check_spectrum(plan.dense_task, check_promises(plan.dense_task, plan.train.seed), plan.spectrum)
    check = method_checker(plan.task, network, plan.train, sparsity=plan.sparsity)
    for method in _valid_methods(plan):
        check(method)
        until = plan.train.epochs_in(method.final_density_at)
        if until > plan.rungs[0]:
            raise ValueError(
                "Every density schedule must end before the first rung, since candidates are compared at equal "
                f"density, got one that ends after epoch {until} with rungs = {list(plan.rungs)}. Raise rungs, or "
                "leave out methods with a density schedule."
            )


def _check_spectrum(task: AnyTask, network: nn.Module, config: SpectrumConfig) -> None:
    """Check that a network has the spectrum that the plan asks for, e.g. that the warm-up is not too long."""
    network.eval()
    with torch.no_grad():
        recurrent, probe = recurrent_part(task, network)
    check_has_spectrum(recurrent, probe, state=config.state, warmup=config.warmup)
    network.train()


def _valid_methods(plan: Plan) -> list[Method]:
    """The valid methods of the space; of a large space, those of a random sample."""
    found, invalid = [], ""
    for config in plan.space.configs(MAX_CHECKED):
        try:
            found.append(from_config(method_config(config)))
        except ValueError as error:
            invalid = invalid or f" (first invalid one: {error})"
    if len(found) < (plan.n_candidates if plan.space.size() <= MAX_CHECKED else 1):
        raise ValueError(
            f"The search space must have at least n_candidates = {plan.n_candidates} valid methods, got {len(found)}"
            f"{invalid}. Lower n_candidates or widen [space]."
        )
    return found


def check_rounds(*, n_candidates: int, rungs: Sequence[int], keep: Sequence[int], epochs: int) -> None:
    """Check the rounds of a search.

    Args:
        n_candidates: number of candidates before the first round.
        rungs: epochs after which candidates are compared.
        keep: number of candidates that each criterion keeps at each rung.
        epochs: length of a full training.

    Raises:
        ValueError: a round eliminates all candidates or none, or a rung is not before the last epoch.
    """
    if n_candidates < 2:
        raise ValueError(f"n_candidates must be at least 2, got {n_candidates}. Raise it.")
    if not rungs or len(rungs) != len(keep):
        raise ValueError(
            f"rungs and keep must have one entry for each round, got {len(rungs)} and {len(keep)} entries. "
            "Make them equally long."
        )
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 0 or rungs[-1] >= epochs:
        raise ValueError(
            f"rungs must increase and lie between 0 and epochs - 1 = {epochs - 1}, got {list(rungs)}. "
            "Change rungs or epochs."
        )
    if keep[-1] < 1:
        raise ValueError(f"keep must end with at least 1 finalist, got {list(keep)}. Raise its last entry.")
    if any(after >= before for before, after in pairwise([n_candidates, *keep])):
        raise ValueError(
            f"keep must decrease from below n_candidates = {n_candidates}, got {list(keep)}. "
            "Let every round eliminate at least one candidate."
        )
