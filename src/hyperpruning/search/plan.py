"""The plan: all settings of a search in one frozen dataclass, and its validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.search.criteria import CRITERIA, MIN_FOLLOWED, criterion_of
from hyperpruning.search.references import FrozenDense, frozen_dense
from hyperpruning.search.samplers import SAMPLERS, NamedSampler, check_sampler_name, name_of_sampler
from hyperpruning.search.space import (
    SearchSpace,
    space_from_identity,
)
from hyperpruning.settings import check_settings, described, did_you_mean, documented, setting
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.own_loop import complete_config
from hyperpruning.training.record import Metric
from hyperpruning.training.task import AnyTask, metric_of

BEST = "best"
AVERAGING = {"averaged_loss", "averaged_ls", "blend", "calibrated"}  # criteria that need the averages of the weights


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
    sampler: Any = setting(
        "tpe",
        f"one of {', '.join(SAMPLERS)}; in Python also a sampler of Optuna",
        section="search",
        check=check_sampler_name,
    )
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
    distance: str = setting("l2", f"between spectra: {', '.join(DISTANCES)}", section="spectrum", choices=DISTANCES)
    spectrum: SpectrumConfig = described("how spectra are taken", SpectrumConfig())

    def __post_init__(self) -> None:
        check_settings(self)
        if self.task is not None:
            object.__setattr__(self, "train", complete_config(self.task, self.train))
        if not self.criteria or len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"criteria must have at least one name and none twice, got {list(self.criteria)}.")
        self._check_records()
        if self.winner not in (BEST, *self.criteria):
            raise ValueError(
                f"winner must be {BEST} or one of the criteria {', '.join(self.criteria)}, got {self.winner!r}."
                f"{did_you_mean(self.winner, (BEST, *self.criteria))}"
            )
        object.__setattr__(self, "dense", frozen_dense(self.dense))

    def _check_records(self) -> None:
        """Check that the records will have what the criteria need."""
        for criterion in self.criteria:
            words = set(criterion.replace("+", " ").replace("*", " ").split())
            needs: dict[str, tuple[set[str], bool]] = {
                "half_life above 0": (
                    {"averaged_loss", "averaged_ls", "blend", "calibrated"},
                    self.train.half_life > 0,
                ),
                "averaged = true in [spectrum]": ({"averaged_ls"}, self.spectrum.averaged),
                f"n_followed at least {MIN_FOLLOWED}": ({"calibrated"}, self.n_followed >= MIN_FOLLOWED),
            }
            for need, (names, given) in needs.items():
                if words & names and not given:
                    raise ValueError(f"The criterion {criterion} must have {need}, got less. Set it, or leave it out.")
        if self.n_followed > self.n_candidates:
            raise ValueError(
                f"n_followed must be at most n_candidates = {self.n_candidates}, got {self.n_followed}. Lower it."
            )

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
            if name not in ("task", "dense_task", "dense", "train", "space", "spectrum", "sampler")
        }
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
