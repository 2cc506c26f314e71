"""Stopping rules: functions of the history that end the training of a criterion's finalists early.

A budget in epochs lowers the number of candidates (search/plan.py), and a budget in wall-clock time is kept by the
driver (search/deadline.py). The rules here decide the winner, so that they depend on the history alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hyperpruning.search.history import DENSE, History, Stopped
from hyperpruning.search.plan import DENSE_LOSS, Plan, seed_names


def stopped(history: History, criterion: str) -> Stopped | None:
    """The stop of a criterion; None without one, or if the network that it chose has failed since."""
    found = history.stops.get(criterion)
    return None if found is None or found.network in history.failures else found


def target_of(plan: Plan, history: History) -> float | None:
    """The validation loss that ends a search, nats; None if there is none, or if the dense network's is not known."""
    if plan.target_loss != DENSE_LOSS:
        return None if plan.target_loss is None else float(plan.target_loss)
    return history.finals[DENSE].valid_loss if DENSE in history.finals else None


def target_reached(plan: Plan, history: History, criterion: str, names: Iterable[str], epoch: int) -> Stopped | None:
    """The stop of a criterion of which a finalist has reached the target after an epoch.

    Args:
        plan: the search.
        history: the results so far.
        criterion: whose finalists.
        names: its finalists; one that has not reached the epoch is left out.
        epoch: the epoch.

    Returns:
        the stop at the finalist with the lowest validation loss; None if no finalist has reached the target.
    """
    target, known = target_of(plan, history), history.at(epoch, set(names))
    losses = {name: record.valid_loss for name, record in known.items() if name not in history.failures}
    best = min(losses, key=lambda name: (losses[name], name), default=None)
    if target is None or best is None or losses[best] > target:
        return None
    given = "the dense network's" if plan.target_loss == DENSE_LOSS else "target_loss"
    reason = (
        f"The target is reached: the validation loss of {best} after epoch {epoch} is {losses[best]:.4f} nats, at most "
        f"{given} {target:.4f}."
    )
    return Stopped(criterion, "target_loss", best, reason)


def choice_is_clear(plan: Plan, history: History, criterion: str, names: Iterable[str], seeds: int) -> Stopped | None:
    """The stop of a criterion whose leading finalist is ahead of each other one by more than the scatter of seeds.

    A one-sided paired t-test: a seed has the same initial weights and order of the data for all finalists, so that what
    it adds to all losses is left out; the scatter that is left is pooled over all finalists (a randomised block design;
    for two finalists the ordinary paired test). The level is divided by the number of tests (Bonferroni): by the other
    finalists, and by the times that the rule is asked. If what is left scatters normally and equally, the best finalist
    loses by this rule with at most the probability `clear_level`.

    Args:
        plan: the search.
        history: the results so far.
        criterion: whose finalists.
        names: its finalists; one of which a seed failed is left out.
        seeds: seeds that are trained so far, at least 2; later ones are not looked at.

    Returns:
        the stop; None if the choice is not clear, or if there are fewer than two finalists.
    """
    assert plan.clear_level is not None
    losses = {name: _losses(plan, history, name, seeds) for name in names}
    losses = {name: found for name, found in losses.items() if len(found) == seeds}
    means = {name: sum(found) / seeds for name, found in losses.items()}
    if len(means) < 2:
        return None
    leader, second = sorted(means, key=lambda name: (means[name], name))[:2]
    freedom = (len(losses) - 1) * (seeds - 1)
    of_seed = [sum(found[seed] for found in losses.values()) / len(losses) for seed in range(seeds)]
    middle = sum(of_seed) / seeds
    squares = sum(
        (found[s] - means[name] - of_seed[s] + middle) ** 2 for name, found in losses.items() for s in range(seeds)
    )
    error = math.sqrt(squares / freedom * 2 / seeds)
    ahead = means[second] - means[leader]
    statistic = ahead / error if error else math.inf * ahead if ahead else 0.0
    if tail_of_t(statistic, freedom) > plan.clear_level / ((len(means) - 1) * (plan.finalist_seeds - 2)):
        return None
    reason = (
        f"The choice is clear: after {seeds} seeds, the mean validation loss of {leader} is {means[leader]:.4f} nats "
        f"and that of the next finalist, {second}, {means[second]:.4f} "
        f"(t = {statistic:.1f}, level {plan.clear_level:g})."
    )
    return Stopped(criterion, "clear_level", leader, reason)


def _losses(plan: Plan, history: History, name: str, seeds: int) -> Sequence[float]:
    """The final validation losses of a finalist's first seeds; fewer if one failed."""
    first = seed_names(plan, name)[:seeds]
    return [history.finals[one].valid_loss for one in first if one in history.finals and one not in history.failures]


def tail_of_t(statistic: float, freedom: int) -> float:
    """The probability that Student's t is larger, for a whole number of degrees of freedom.

    A finite sum (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4), so that scipy is not needed.

    >>> round(tail_of_t(2.920, 2), 3), round(tail_of_t(1.812, 10), 3), round(tail_of_t(0.0, 3), 3)
    (0.05, 0.05, 0.5)
    """
    angle = math.atan2(statistic, math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for number in range(2 + odd, freedom - 1, 2):
        term *= (number - 1) / number * math.cos(angle) ** 2
        total += term
    if odd:
        total = 2 / math.pi * (angle + math.sin(angle) * (total if freedom > 1 else 0.0))
    else:
        total *= math.sin(angle)
    return (1 - total) / 2
