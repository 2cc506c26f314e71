"""What a search does next: `decide`, a pure function of the plan and the history.

It does not train, read files or the clock, or keep state. The driver carries out its actions; status, report and dry
runs call it too, and tests call it on invented histories. It returns all actions that can be carried out now: the
driver may train several networks at the same time, and calls `decide` again when all actions are done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from hyperpruning.search.brackets import Bracket
from hyperpruning.search.criteria import Rung, criterion_of
from hyperpruning.search.history import DENSE, SMALL, History, RoundDecision
from hyperpruning.search.memo import memo_of
from hyperpruning.search.plan import BEST, Plan, names_of, seed_names
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
    if actions := _training(plan, history, followed(plan, history), plan.rungs[-1]):
        return actions
    actions, surviving = _elimination(plan, history)
    return actions or _finalists(plan, history, surviving) or _eliminated(plan, history)


def _sampling(plan: Plan, history: History) -> list[Action]:
    """Suggest candidates batch by batch, and train each batch to the first rung of its bracket."""
    memo = memo_of(plan, history)
    for batch in range(memo.complete, len(memo.batches)):
        names = memo.batches[batch]
        missing = tuple(name for name in names if name not in history.candidates)
        if missing and not history.space_exhausted:
            return [Suggest(batch, missing)]
        known = [name for name in names if name in history.candidates]
        until, dense = memo.first_rungs[names[0]], _dense_until(plan, batch)
        if actions := _training(plan, history, known, until, dense=dense):
            return actions
        memo.complete = batch + 1
    return []


def _elimination(plan: Plan, history: History) -> tuple[list[Action], dict[str, list[str]]]:
    """The rounds of all criteria: the missing actions, and the candidates that each criterion has kept."""
    kept: dict[str, list[str]] = {criterion: [] for criterion in plan.criteria}
    for bracket in plan.brackets():
        surviving = {c: [name for name in names_of(bracket) if name in history.candidates] for c in plan.criteria}
        if actions := _rounds(plan, history, bracket, surviving):
            return actions, kept
        for criterion, names in surviving.items():
            kept[criterion] += names
    return [], kept


def _rounds(plan: Plan, history: History, bracket: Bracket, surviving: dict[str, list[str]]) -> list[Action]:
    """The missing actions of a bracket; `surviving` loses the candidates that its rounds drop."""
    for number, (epoch, keep) in enumerate(zip(bracket.rungs, bracket.keep, strict=True), bracket.first_round):
        if actions := _training(plan, history, _union(surviving), epoch, dense=_dense_until(plan, number + 1)):
            return actions
        decisions: list[Action] = []
        for criterion, names in surviving.items():
            decision = history.rounds.get((criterion, number))
            if decision is None and names:
                scores = _scores(plan, history, criterion, names, epoch)
                if not scores and plan.scheduler != "hyperband":
                    return [*decisions, _abort_without_candidate(history, criterion)]
                kept, dropped = split_by_score(scores, keep)
                decision = RoundDecision(criterion, number, epoch, scores, tuple(kept), tuple(dropped))
                decisions.append(Eliminate(decision))
            surviving[criterion] = [] if decision is None else list(decision.kept)
        if decisions:
            return decisions
    return []


def _finalists(plan: Plan, history: History, surviving: Mapping[str, Sequence[str]]) -> list[Action]:
    """Train the finalists to the end; each criterion's best finalist by validation loss is its winner.

    The dense network with as many weights is trained with them. With several seeds, losses are means over the seeds.
    """
    end, small = plan.train.epochs, [SMALL] if plan.as_many_weights else []
    if actions := _training(plan, history, [*_union(surviving), *small], end, dense=_dense_until(plan, None)):
        return actions
    ended = [name for name in _union(surviving) if name in history.finals]
    again = [name for one in ended for name in seed_names(plan, one)[1:]]
    if actions := _training(plan, history, again, end):
        return actions
    winners = {}
    for criterion, names in surviving.items():
        losses = {name: mean_loss(plan, history, name) for name in names if name in history.finals}
        if not losses:
            return [_abort_without_candidate(history, criterion)]
        winners[criterion] = split_by_score(losses, 1)[0][0]
    return [] if winners.keys() <= history.winners.keys() else [Finish(winners)]


def mean_loss(plan: Plan, history: History, name: str) -> float:
    """The mean validation loss of a finalist over its seeds; a seed that failed makes it infinite."""
    names = seed_names(plan, name)
    if any(one in history.failures for one in names):
        return math.inf
    return sum(history.finals[one].valid_loss for one in names) / len(names)


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

    A frozen one has one record, at epoch 0. With several brackets it trains to the last rung at once.
    """
    if plan.dense is not None:
        return 0
    if step is None or not plan.rungs:
        return plan.train.epochs
    return plan.rungs[-1 if plan.scheduler == "hyperband" else min(step, len(plan.rungs) - 1)]


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
    following = [name for name in followed(plan, history) if name not in history.failures]
    wanted, described = set(names), {*names, *following}
    known = history.at(epoch, described)
    return Rung(
        epoch=epoch,
        epochs=plan.train.epochs,
        records={name: history.epochs[name] for name in known if name in wanted},
        dense=reference(plan, history),
        configs={name: history.candidates[name].config for name in known},
        distance=memo_of(plan, history).distance,
        number=plan.rungs.index(epoch) if epoch in plan.rungs else len(plan.rungs),
        followed={name: history.epochs[name] for name in following if epoch in history.epochs.get(name, {})},
    )


def followed(plan: Plan, history: History) -> list[str]:
    """The candidates that are trained to the last rung before any decision, to calibrate criteria."""
    return list(history.candidates)[: plan.n_followed]


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
    losses = {name: mean_loss(plan, history, name) for name in history.winners.values() if name in history.finals}
    return split_by_score(losses, 1)[0][0] if losses else None


def pruned_weights(plan: Plan, history: History) -> int:
    """The active weights of the finalists (the fewest, if they differ)."""
    finalists = _union(survivors(plan, history))
    return min(history.epochs[name][history.trained(name)].active for name in finalists)


def observations(plan: Plan, history: History, batch: int) -> list[tuple[dict[str, str | float], float]]:
    """The observations of the sampler before a batch: the configs of earlier batches, with their scores.

    Returns:
        (config, score by the first criterion at the first rung) of each candidate, in the order of their names; the
        score of one that failed is infinite. Candidates of several brackets are compared at the first rung of all.
    """
    names = [name for names in memo_of(plan, history).batches[:batch] for name in names if name in history.candidates]
    scores = _scores(plan, history, plan.criteria[0], names, plan.rungs[0]) if names else {}
    return [(history.candidates[name].config, scores.get(name, float("inf"))) for name in names]


def survivors(plan: Plan, history: History) -> dict[str, list[str]]:
    """The candidates that each criterion has not eliminated yet."""
    surviving: dict[str, list[str]] = {criterion: [] for criterion in plan.criteria}
    for bracket, criterion in product(plan.brackets(), plan.criteria):
        numbers = range(bracket.first_round, bracket.first_round + len(bracket.rungs))
        rounds = [history.rounds[criterion, number] for number in numbers if (criterion, number) in history.rounds]
        begun = [name for name in names_of(bracket) if name in history.candidates]
        surviving[criterion] += rounds[-1].kept if rounds else begun
    return surviving


def _union(surviving: Mapping[str, Sequence[str]]) -> list[str]:
    """All candidates that some criterion has kept, in the order of their names."""
    return sorted({name for names in surviving.values() for name in names})
