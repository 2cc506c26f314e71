"""What a search does next: `decide`, a pure function of the plan and the history.

It does not train, read files or the clock, or keep state. The driver carries out its actions; status, report and dry
runs call it too, and tests call it on invented histories. It returns all actions that can be carried out now: the
driver may train several networks at the same time, and calls `decide` again when all actions are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.criteria import Rung, criterion_of
from hyperpruning.search.history import DENSE, SMALL, History, RoundDecision
from hyperpruning.search.plan import BEST, Plan, batches
from hyperpruning.training.record import EpochRecord


@dataclass(frozen=True)
class Suggest:
    """Ask the sampler for a batch of configs.

    Attributes:
        batch: its number, from 0.
        names: the candidates of the batch that have no config yet.
    """

    batch: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Train:
    """Train a network up to an epoch; a full training also gives a `FinalResult`."""

    network: str
    until: int


@dataclass(frozen=True)
class Eliminate:
    """Record the decision of one criterion at one rung."""

    decision: RoundDecision


@dataclass(frozen=True)
class Finish:
    """Record the winners: networks by criterion."""

    winners: Mapping[str, str]


@dataclass(frozen=True)
class Abort:
    """Stop the search without a result, for this reason."""

    reason: str


Action = Suggest | Train | Eliminate | Finish | Abort


def decide(plan: Plan, history: History) -> list[Action]:
    """The next actions of a search.

    Args:
        plan: the search.
        history: the results so far; a training may be half done.

    Returns:
        actions of one kind: the missing actions of the first incomplete stage; empty when the search is finished. The
        order of the networks to train is the order in which their results are recorded.
    """
    if DENSE in history.failures:
        return [Abort(f"The dense reference must train without failure, got: {history.failures[DENSE]}")]
    if actions := _sampling(plan, history):
        return actions
    actions, surviving = _elimination(plan, history)
    return actions or _finalists(plan, history, surviving) or _eliminated(plan, history)


def _sampling(plan: Plan, history: History) -> list[Action]:
    """Suggest candidates batch by batch, and train each batch to the first rung."""
    for batch, names in enumerate(batches(plan)):
        missing = tuple(name for name in names if name not in history.candidates)
        if missing and not history.space_exhausted:
            return [Suggest(batch, missing)]
        known = [name for name in names if name in history.candidates]
        if actions := _training(plan, history, known, plan.rungs[0], dense=_dense_until(plan, batch)):
            return actions
    return []


def _elimination(plan: Plan, history: History) -> tuple[list[Action], dict[str, list[str]]]:
    """The rounds of all criteria: the missing actions, and the candidates that each criterion has kept."""
    surviving = {criterion: list(history.candidates) for criterion in plan.criteria}
    for number, (epoch, keep) in enumerate(zip(plan.rungs, plan.keep, strict=True)):
        if actions := _training(plan, history, _union(surviving), epoch, dense=_dense_until(plan, number + 1)):
            return actions, surviving
        decisions: list[Action] = []
        for criterion, names in surviving.items():
            decision = history.rounds.get((criterion, number))
            if decision is None:
                scores = _scores(plan, history, criterion, names, epoch)
                if not scores:
                    return [*decisions, _abort_without_candidate(history, criterion)], surviving
                kept, dropped = split_by_score(scores, keep)
                decision = RoundDecision(criterion, number, epoch, scores, tuple(kept), tuple(dropped))
                decisions.append(Eliminate(decision))
            surviving[criterion] = list(decision.kept)
        if decisions:
            return decisions, surviving
    return [], surviving


def _finalists(plan: Plan, history: History, surviving: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists to the end; each criterion's best finalist by validation loss is its winner.

    The dense network with as many weights is trained with them.
    """
    end, small = plan.train.epochs, [SMALL] if plan.as_many_weights else []
    if actions := _training(plan, history, [*_union(surviving), *small], end, dense=_dense_until(plan, None)):
        return actions
    winners = {}
    for criterion, names in surviving.items():
        ended = {name: history.finals[name].valid_loss for name in names if name in history.finals}
        if not ended:
            return [_abort_without_candidate(history, criterion)]
        winners[criterion] = split_by_score(ended, 1)[0][0]
    return [] if winners.keys() <= history.winners.keys() else [Finish(winners)]


def _eliminated(plan: Plan, history: History) -> list[Action]:
    """With `train_all`, train the eliminated candidates to the end too, to show what the search missed."""
    return _training(plan, history, history.candidates, plan.train.epochs) if plan.train_all else []


def _training(
    plan: Plan, history: History, names: Iterable[str], until: int, *, dense: int | None = None
) -> list[Action]:
    """The incomplete trainings; the dense reference comes first, and may train for more epochs than the candidates."""
    targets = ({} if dense is None else {DENSE: dense}) | dict.fromkeys(names, until)
    return [
        Train(name, epoch)
        for name, epoch in targets.items()
        if name not in history.failures and not _is_trained(plan, history, name, epoch)
    ]


def _is_trained(plan: Plan, history: History, name: str, until: int) -> bool:
    to_the_end = until == plan.train.epochs or (name == DENSE and plan.dense is not None)
    return (name in history.finals or not to_the_end) and history.trained(name) >= until


def _dense_until(plan: Plan, step: int | None) -> int:
    """The dense reference trains one rung ahead, so that the candidates do not wait for it; at last (None) to the end.

    A frozen one has one record, at epoch 0.
    """
    if plan.dense is not None:
        return 0
    return plan.train.epochs if step is None else plan.rungs[min(step, len(plan.rungs) - 1)]


def _abort_without_candidate(history: History, criterion: str) -> Abort:
    reasons = "; ".join(dict.fromkeys(history.failures.values()))
    return Abort(
        f"At least one candidate must train without failure, got failures of all that criterion {criterion!r} kept: "
        f"{reasons}. Lower the learning rate or keep more candidates."
    )


def split_by_score(scores: Mapping[str, float], keep: int) -> tuple[list[str], list[str]]:
    """Split names by score: those kept and those dropped, each best first; equal scores are ordered by name."""
    order = sorted(scores, key=lambda name: (scores[name], name))
    return order[:keep], order[keep:]


def _scores(plan: Plan, history: History, criterion: str, names: Iterable[str], epoch: int) -> dict[str, float]:
    """Scores of the candidates that have reached an epoch."""
    return criterion_of(criterion)(rung(plan, history, names, epoch))


def rung(plan: Plan, history: History, names: Iterable[str], epoch: int) -> Rung:
    """The input of a criterion: some candidates at a rung, without those that have not reached it."""
    known, wanted = history.at(epoch), set(names)
    return Rung(
        epoch=epoch,
        epochs=plan.train.epochs,
        records={name: history.epochs[name] for name in known if name in wanted},
        dense=reference(plan, history),
        configs={name: history.candidates[name].config for name in known if name in wanted},
        distance=lambda a, b: float(spectrum_distance(a, b, kind=plan.distance)),
    )


def reference(plan: Plan, history: History) -> Mapping[int, EpochRecord]:
    """The records of the dense reference by epoch; those of a frozen one are the same at every epoch."""
    records = history.epochs.get(DENSE, {})
    return dict.fromkeys(range(plan.train.epochs + 1), records[0]) if plan.dense is not None and records else records


def winner(plan: Plan, history: History) -> str | None:
    """The network of ``winner.safetensors``; None before it is known.

    It is what the user chose after the search; else what the plan says: the winner by one criterion, or of the winners
    by all criteria the one with the lowest validation loss (equal losses are ordered by name).
    """
    if history.choice is not None:
        return history.choice.network
    if plan.winner != BEST:
        return history.winners.get(plan.winner)
    if not all(criterion in history.winners for criterion in plan.criteria):
        return None
    losses = {name: history.finals[name].valid_loss for name in history.winners.values() if name in history.finals}
    return split_by_score(losses, 1)[0][0] if losses else None


def pruned_weights(plan: Plan, history: History) -> int:
    """The active weights of the finalists (the fewest, if they differ), from the last rung."""
    return min(history.epochs[name][plan.rungs[-1]].active for name in _union(survivors(plan, history)))


def observations(plan: Plan, history: History, batch: int) -> list[tuple[dict[str, str | float], float]]:
    """The observations of the sampler before a batch: the configs of earlier batches, with their scores.

    Returns:
        (config, score by the first criterion at the first rung) of each candidate, in the order of their names; the
        score of one that failed is infinite.
    """
    names = [name for names in list(batches(plan))[:batch] for name in names if name in history.candidates]
    scores = _scores(plan, history, plan.criteria[0], names, plan.rungs[0]) if names else {}
    return [(history.candidates[name].config, scores.get(name, float("inf"))) for name in names]


def survivors(plan: Plan, history: History) -> dict[str, list[str]]:
    """The candidates that each criterion has not eliminated yet."""
    surviving = {}
    for criterion in plan.criteria:
        rounds = [
            history.rounds[criterion, number]
            for number in range(len(plan.rungs))
            if (criterion, number) in history.rounds
        ]
        surviving[criterion] = list(rounds[-1].kept) if rounds else list(history.candidates)
    return surviving


def _union(surviving: Mapping[str, Sequence[str]]) -> list[str]:
    """All candidates that some criterion has kept, in the order of their names."""
    return sorted({name for names in surviving.values() for name in names})
