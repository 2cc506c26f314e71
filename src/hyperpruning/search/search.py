"""The search: a function of (plan, ledger).

What is not in the ledger is computed and appended; what is there is taken as it stands. So a search that was killed
continues by being called again, and ends as it would have ended. All judges share their networks: what two of them
need is trained once.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.criteria import OBJECTIVES
from hyperpruning.search.executors import InProcess
from hyperpruning.search.ledger import LEDGER, Fact, History, Ledger, RunFolderError, epoch_fact, read
from hyperpruning.search.plan import DENSE, Plan, ask, candidate_name, check, job
from hyperpruning.search.schedulers import decide
from hyperpruning.search.space import Point
from hyperpruning.search.worker import OUT_OF_MEMORY, Slice, train_slice
from hyperpruning.training.checkpoint import release
from hyperpruning.training.device import device_of

logger = logging.getLogger(__name__)
_NO_DENSE = "The dense reference must train, and it did not: "
_NO_ROOM = (
    "its GPU must hold what is trained on it side by side, and the memory is too small: go on with `hyperprune resume` "
    "and fewer --workers, or begin another run with a lower batch or bptt in [training]."
)


def search(
    plan: Plan,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_fact: Callable[[Fact], None] | None = None,
) -> History:
    """Run a search, or go on with it; the caller holds the run folder (`ledger.locked`).

    Args:
        plan: what to search.
        folder: the run folder; a search that was interrupted there continues.
        executor: where candidates are trained; by default in this process.
        on_fact: is called with each new line of the ledger.

    Returns:
        all that the ledger says at the end.

    Raises:
        ValueError: a plan that cannot be carried out.
        RunFolderError: the folder holds another search.
    """
    check(plan)
    refuse_another(plan, folder)
    run = _Run(plan, folder, executor or InProcess(), on_fact)
    run.open()
    _pool(run)
    alive = _rounds(run)
    _finals(run, alive)
    return run.history


def refuse_another(plan: Plan, folder: Path) -> None:
    """See that a run folder is new or belongs to this search.

    Raises:
        RunFolderError: it holds another search; the message says what differs.
    """
    there = read(folder).header.get("identity") if (folder / LEDGER).exists() else None
    if there is not None and (differences := compare(there, _plain(plan.identity()))):
        raise RunFolderError(
            f"A run folder belongs to one search, and {folder} holds another ({'; '.join(differences)}): "
            "give another --out, or restore the experiment."
        )


class _Run:
    """A search under way: the plan, the ledger and what it says."""

    def __init__(
        self, plan: Plan, folder: Path, executor: Executor, on_fact: Callable[[Fact], None] | None = None
    ) -> None:
        self.plan, self.folder, self.executor, self.on_fact = plan, folder, executor, on_fact
        self.ledger = Ledger(folder)
        self.history = read(folder, warn=True) if self.ledger.path.exists() else History()

    def open(self) -> None:
        """Write the header, or see whether the versions are still those of the one there."""
        header: Fact = {"kind": "search", "identity": _plain(self.plan.identity()), "versions": _versions(self.plan)}
        if not self.history.header:
            if self.ledger.path.exists():  # what is in it could be of any search: checkpoints know whose they are
                logger.warning("%s has lost its first line: going back to the checkpoints.", self.ledger.path)
                self.ledger.path.replace(self.ledger.path.with_suffix(".damaged"))
                self.history = History()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.state(header)
        elif differences := compare(self.history.header["versions"], header["versions"]):
            logger.warning(
                "The search was begun with other versions or on another device, results may differ: %s.",
                "; ".join(differences),
            )
        if DENSE in self.history.failures:
            raise ValueError(_NO_DENSE + self.history.failures[DENSE])

    def state(self, fact: Fact) -> None:
        """Append a fact to the ledger, and take it in."""
        self.ledger.append(fact)
        self.history.add(fact)
        if self.on_fact is not None:
            self.on_fact(fact)

    def advance(self, targets: Mapping[str, int]) -> None:
        """Train networks up to the epochs given, all at the same time; facts are stated in the order of `targets`."""
        waiting: list[tuple[str, Future[Slice]]] = []
        for name, until in targets.items():
            if name not in self.history.failures and not self.is_done(name, until):
                todo = job(self.plan, self.folder, self.history.candidates.get(name), until)
                waiting.append((name, self.executor.submit(train_slice, todo)))
        try:
            for name, future in waiting:
                self.take(name, future.result())
        except BaseException:
            for _, future in waiting:
                future.cancel()
            raise

    def is_done(self, name: str, until: int) -> bool:
        """Whether the ledger has all that training a network up to an epoch would tell."""
        ended = until < self.plan.train.epochs or name in self.history.finals
        return ended and self.history.trained(name) >= until

    def take(self, name: str, result: Slice) -> None:
        """State what a slice of training found, as far as it is new."""
        known = self.history.epochs.get(name, {})
        for record in result.records:
            if record.epoch not in known:
                self.state(epoch_fact(name, record))
        if result.final is not None and name not in self.history.finals:
            self.state({"kind": "final", "network": name, **result.final})
        if name == DENSE and result.failure == OUT_OF_MEMORY:  # another time, with fewer beside it, it may fit
            raise ValueError(_NO_DENSE + _NO_ROOM)
        if result.failure is not None:
            self.state({"kind": "failure", "network": name, "reason": result.failure})
            if name == DENSE:
                raise ValueError(_NO_DENSE + result.failure)

    def scores(self, objective: str, names: Iterable[str], epoch: int) -> dict[str, float]:
        """One judge's scores of the candidates that have reached an epoch."""
        records = {name: record for name, record in self.history.at(epoch).items() if name in set(names)}
        return OBJECTIVES[objective](records, self.history.epochs[DENSE][epoch], self.distance)

    def distance(self, a: Sequence[float], b: Sequence[float]) -> float:
        """The plan's distance between two spectra."""
        return float(spectrum_distance(a, b, kind=self.plan.distance))


def _pool(run: _Run) -> None:
    """Ask for candidates, generation by generation, and train them to the first rung; the dense network goes ahead."""
    plan, history = run.plan, run.history
    first = plan.rungs[0]
    generations = [
        range(start, min(start + plan.generation, plan.pool)) for start in range(0, plan.pool, plan.generation)
    ]
    for generation, indices in enumerate(generations):
        names = [candidate_name(index) for index in indices]
        if not all(name in history.candidates for name in names):
            points = ask(plan, generation, _told(run, generation))
            for name, point in zip(names, points, strict=False):
                if name not in history.candidates:
                    run.state({"kind": "candidate", "name": name, "generation": generation, "point": point})
        ahead = plan.rungs[min(generation, len(plan.rungs) - 1)]
        run.advance({DENSE: ahead} | {name: first for name in names if name in history.candidates})


def _told(run: _Run, generation: int) -> list[tuple[Point, float]]:
    """What the sampler knows when it is asked for a generation: the scores of those before, at the first rung."""
    names = [candidate_name(index) for index in range(generation * run.plan.generation)]  # whatever the ledger's order
    before = [run.history.candidates[name] for name in names if name in run.history.candidates]
    scores: dict[str, float] = {}
    if before:
        scores = run.scores(run.plan.objectives[0], [candidate.name for candidate in before], run.plan.rungs[0])
    return [(candidate.point, scores.get(candidate.name, float("inf"))) for candidate in before]


def _rounds(run: _Run) -> dict[str, list[str]]:
    """Eliminate in rounds, for every judge its own; returns each judge's finalists."""
    plan, history = run.plan, run.history
    alive = {objective: list(history.candidates) for objective in plan.objectives}
    for number, (epoch, keep) in enumerate(zip(plan.rungs, plan.keep, strict=True)):
        union = _union(alive)
        run.advance({DENSE: plan.rungs[min(number + 1, len(plan.rungs) - 1)]} | dict.fromkeys(union, epoch))
        for objective in plan.objectives:
            scores = run.scores(objective, alive[objective], epoch)
            if not scores:
                raise ValueError(
                    f"Some candidate must train, and all that {objective} kept failed: "
                    f"{'; '.join(dict.fromkeys(history.failures.values()))}"
                )
            alive[objective], dropped = decide(scores, keep)
            if (objective, number) not in history.rounds:
                fact = {"kind": "round", "objective": objective, "round": number, "epoch": epoch}
                run.state(fact | {"scores": scores, "kept": alive[objective], "dropped": dropped})
        if not plan.exhaustive:
            for name in set(union) - set(_union(alive)):
                release(run.folder / "networks" / name)
    return alive


def _finals(run: _Run, alive: Mapping[str, list[str]]) -> None:
    """Train the finalists (and, if asked, everybody) to the end; each judge's best finalist is its winner."""
    plan, history = run.plan, run.history
    finalists = _union(alive)
    run.advance(dict.fromkeys([DENSE, *finalists], plan.train.epochs))
    for objective in plan.objectives:
        ended = [name for name in alive[objective] if name in history.finals]
        if not ended:
            raise ValueError(
                f"A search needs a finalist that trains to the end, and all of {objective}'s failed: "
                "lower the learning rate or keep more finalists."
            )
        if objective not in history.winners:
            winner = min(ended, key=lambda name: (history.finals[name]["valid_loss"], name))
            run.state({"kind": "winner", "objective": objective, "network": winner})
    if plan.exhaustive:
        run.advance(dict.fromkeys(history.candidates, plan.train.epochs))


def compare(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences of two nested settings, each as "name: there -> here"."""
    found: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += compare(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} is {old!r} there and {new!r} here")
    return found


def _union(alive: Mapping[str, list[str]]) -> list[str]:
    """All who are still in for some judge, in the order of their names."""
    return sorted({name for names in alive.values() for name in names})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back: tuples are lists, paths are gone or refused."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _versions(plan: Plan) -> dict[str, str]:
    """What results may depend on beside the plan: the versions, and the kind of device."""
    packages = {name: _version(name) for name in ("hyperpruning", "torch", "numpy", "optuna")}
    return packages | {"python": platform.python_version(), "device": device_of(plan.train.device).type}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path without being installed: no version can be told
        return "source tree"
