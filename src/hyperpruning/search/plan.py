"""The plan: a whole search as one frozen value, and what follows from it alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.search.criteria import OBJECTIVES
from hyperpruning.search.schedulers import check_rounds
from hyperpruning.search.space import SAMPLERS, Candidate, FloatRange, Point, SearchSpace, suggest
from hyperpruning.search.worker import Job, SpectrumConfig
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of
from hyperpruning.training.pruning import refusal
from hyperpruning.training.task import Task

DENSE = "dense"
TRIED = 1000  # points of the space that are looked at before anything is trained; larger spaces are sampled


@dataclass(frozen=True)
class Plan:
    """A whole search.

    Attributes:
        task: what the candidates learn.
        dense_task: the same for the dense reference, with the dropout that suits it.
        train: how each network is trained; its seed is the search's.
        sparsity: fraction of zero weights over the prunable weights.
        space: what a candidate may be.
        pool: number of candidates.
        generation: how many are asked of the sampler at a time.
        sampler: a key of `SAMPLERS`.
        rungs: epochs after which the judges look.
        keep: how many candidates go on after each rung.
        objectives: the judges, keys of `OBJECTIVES`; the first one guides the sampler, and its choice is the result.
        distance: between spectra, a key of `DISTANCES`.
        spectrum: how spectra are taken.
        exhaustive: train the eliminated candidates to the end as well, afterwards: shows what each judge missed.
    """

    task: Task
    dense_task: Task
    train: TrainConfig
    sparsity: float
    space: SearchSpace
    pool: int = 12
    generation: int = 6
    sampler: str = "tpe"
    rungs: tuple[int, ...] = (2, 3)
    keep: tuple[int, ...] = (5, 2)
    objectives: tuple[str, ...] = ("ls", "loss", "rank_sum")
    distance: str = "l2"
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    exhaustive: bool = False

    def identity(self) -> dict[str, Any]:
        """All that the result depends on, in JSON types: two searches with the same identity are the same."""
        values = {
            name: value for name, value in vars(self).items() if name not in ("task", "dense_task", "train", "space")
        }
        space = {
            name: asdict(choices) if isinstance(choices, FloatRange) else list(choices)
            for name, choices in self.space.dimensions.items()
        }
        return values | {
            "task": self.task.identity(),
            "dense_task": self.dense_task.identity(),
            "train": asdict(self.train),
            "space": space,
            "spectrum": asdict(self.spectrum),
            "rungs": list(self.rungs),
            "keep": list(self.keep),
            "objectives": list(self.objectives),
        }


def check(plan: Plan) -> None:
    """Refuse a plan that cannot be carried out, before anything is trained.

    Raises:
        ValueError: rounds that cannot be held, a space with too few methods, or with one that cannot be trained here.
    """
    for name in plan.objectives:
        _among("judge", name, OBJECTIVES)
    _among("sampler", plan.sampler, SAMPLERS)
    _among("distance", plan.distance, DISTANCES)
    check_rounds(pool=plan.pool, rungs=plan.rungs, keep=plan.keep, epochs=plan.train.epochs)
    if plan.pool > plan.space.size():
        raise ValueError(
            f"A pool holds different candidates, and the space has {plan.space.size()} where pool is {plan.pool}: "
            "lower pool or widen [space]."
        )
    if plan.generation < 1:
        raise ValueError(f"A generation has at least one candidate, and generation is {plan.generation}: set it to 1.")
    device_of(plan.train.device)
    for task in (plan.task, plan.dense_task):
        task.steps(0, plan.train.seed)
    refuse = refusal(plan.task, plan.task.network(plan.train.seed), plan.train, sparsity=plan.sparsity)
    for method in _methods(plan):
        refuse(method)
        final_from = plan.train.epochs_in(method.final_density_at)
        if final_from > plan.rungs[0]:
            raise ValueError(
                f"Candidates are compared at one density, and one of them has it from epoch {final_from} on, after the "
                f"first rung at {plan.rungs[0]}: raise rungs, or leave out methods whose density falls."
            )


def _methods(plan: Plan) -> list[Method]:
    """The methods of the space (of a large one, many); the sampler passes over the points that are none."""
    found, reason = [], ""
    for point in plan.space.points(TRIED):
        try:
            found.append(from_config(point))
        except ValueError as error:
            reason = str(error)
    if len(found) < (plan.pool if plan.space.size() <= TRIED else 1):
        raise ValueError(
            f"A pool holds different candidates, and of the space's points {len(found)} are methods where pool is "
            f"{plan.pool} (of others, {reason}): lower pool or widen [space]."
        )
    return found


def _among(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"A {what} is one of {', '.join(known)}, and {name!r} is not: choose one of them.")


def ask(plan: Plan, generation: int, told: Sequence[tuple[Point, float]] = ()) -> list[Point]:
    """The points of a generation; the same for the same answers.

    Args:
        plan: of the search.
        generation: 0 for the first, of which nothing is known yet.
        told: the points of the generations before, with their scores.
    """
    return suggest(
        plan.space,
        told,
        sampler=SAMPLERS[plan.sampler],
        seed=(plan.train.seed * 1_000_003 + generation) % 2**32,  # the samplers' limit
        count=min(plan.generation, plan.pool - generation * plan.generation),
    )


def candidate_name(index: int) -> str:
    """c01, c02, ..."""
    return f"c{index + 1:02d}"


def job(plan: Plan, folder: Path, candidate: Candidate | None, until: int) -> Job:
    """What a worker needs to know to train a candidate, or the dense network (None), up to an epoch."""
    name = DENSE if candidate is None else candidate.name
    return Job(
        name=name,
        task=plan.dense_task if candidate is None else plan.task,
        train=plan.train,
        method=None if candidate is None else candidate.method,
        sparsity=0.0 if candidate is None else plan.sparsity,
        spectrum=plan.spectrum,
        folder=folder / "networks" / name,
        until=until,
    )
