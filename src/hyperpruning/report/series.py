"""The data of the figures, computed from a run; report/figures.py draws them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hyperpruning.report.run import Run
from hyperpruning.report.tables import evenly_spaced
from hyperpruning.search.history import DENSE
from hyperpruning.search.ranking import spearman
from hyperpruning.search.schedulers import survivors
from hyperpruning.training.averaging import non_monotone

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
TORCH = re.compile(r"(?:.*\.)??(?:rnn\.(\d+)\.)?weight_(ih|hh)_l(\d+)")  # a single module, or one in a stack
HIGHWAY = re.compile(r"rnn\.(\d+)\.(?:w|r\.(\d+))")  # a recurrent highway layer: its input, and each micro-step
SOURCES = {"ih": "input", "hh": "state"}
GATES = {1: ("",), 3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}  # the order in which torch stacks them


@dataclass(frozen=True)
class Line:
    """A candidate in the rounds of one criterion.

    Attributes:
        network: the candidate.
        until: the epoch up to which the search by this criterion trains it, so far.
        outcome: "out", "failed", "in", "finalist" or "chosen".
        final: the validation metric at the end; None if the search by this criterion does not train it to the end.
    """

    network: str
    until: int
    outcome: str
    final: float | None = None


@dataclass(frozen=True)
class Scatter:
    """Values at a rung and final values of the candidates trained to the end.

    Attributes:
        epoch: of the rung.
        networks: N names.
        early: (N,) LS distance or validation metric at the rung.
        final: (N,) validation metric of the best epoch.
        rho: Spearman's rank correlation; None for fewer than 4.
    """

    epoch: int
    networks: tuple[str, ...]
    early: tuple[float, ...]
    final: tuple[float, ...]
    rho: float | None


@dataclass(frozen=True)
class Densities:
    """The density of a network by tensor and gate.

    Attributes:
        rows: R names.
        epochs: E epochs.
        values: (R, E) active fraction.
        churn: (E,) fraction of the active weights that were dropped in the epoch.
        ever_active: (E,) fraction of all weights that have been active so far.
    """

    rows: tuple[str, ...]
    epochs: tuple[int, ...]
    values: Matrix
    churn: tuple[float, ...]
    ever_active: tuple[float, ...]


def bracket(run: Run, criterion: str) -> list[Line]:
    """All candidates in the rounds of one criterion, the best first."""
    history = run.history
    rounds = [found for (name, _), found in sorted(history.rounds.items()) if name == criterion]
    out = {name: (found.epoch, place) for found in rounds for place, name in enumerate(found.dropped)}
    if criterion in history.stops and criterion in history.winners:
        kept = survivors(run.plan, history)[criterion]
        cut = [one for one in kept if one not in history.finals and one not in history.failures]
        out |= {name: (history.trained(name), place) for place, name in enumerate(cut)}
    last = {name: place for found in rounds for place, name in enumerate(found.kept)}
    lines = {name: _line(run, criterion, name, out.get(name, (None, 0))[0]) for name in history.candidates}
    rank = {"chosen": 0, "finalist": 1, "in": 2, "out": 3, "failed": 3}

    def order(name: str) -> tuple[float, ...]:
        line, place = lines[name], out[name][1] if name in out else last.get(name, 0)
        loss = math.inf if line.final is None else history.finals[name].valid_loss
        return rank[line.outcome], loss, -line.until, place

    return [lines[name] for name in sorted(lines, key=order)]


def _line(run: Run, criterion: str, name: str, out: int | None) -> Line:
    history, trained = run.history, max(0, run.history.trained(name))
    if out is not None:
        return Line(name, out, "out")
    if name in history.failures:
        return Line(name, trained, "failed")
    if name not in history.finals:
        return Line(name, trained, "in")
    outcome = "chosen" if history.winners.get(criterion) == name else "finalist"
    return Line(name, trained, outcome, run.valid(history.finals[name]))


def curve(run: Run, network: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Epochs from 1 on, and the validation metric after each."""
    records = run.history.epochs.get(network, {})
    epochs = tuple(epoch for epoch in sorted(records) if epoch > 0)
    return epochs, tuple(run.value(records[epoch]) for epoch in epochs)


def averaging_begins(run: Run, network: str) -> int | None:
    """The last epoch of a network before its weights are averaged; None if they are not averaged, or not yet."""
    train, records = run.plan.train, run.history.epochs.get(network, {})
    if train.average_from is None:  # a loop of the user's own
        return None
    last = max(records, default=0)
    losses: list[float] = []  # at the final density, as in training/epochs.py
    for epoch in range(last):
        if epoch in records and epoch and records[epoch].active == records[last].active:
            losses.append(records[epoch].valid_loss)
        early = train.non_monotone and losses and non_monotone(losses, train.non_monotone)
        if early or epoch >= train.epochs_in(train.average_from):
            return epoch
    return None


def infinite(values: Vector) -> int:
    """The number of exponents that are -inf."""
    return int(np.isneginf(values).sum())


def y_limits(curves: Sequence[tuple[Sequence[int], Sequence[float]]], first: int) -> tuple[float, float]:
    """Limits of the vertical axis: the lowest value from an epoch on, and about the 97 % quantile."""
    values = [value for epochs, column in curves for epoch, value in zip(epochs, column, strict=True) if epoch >= first]
    finite = [value for value in values if math.isfinite(value)] or [1.0]
    low, top = min(finite), min(max(finite), float(np.quantile(finite, 0.97)))
    return low, top + 0.05 * (top - low) if top > low else low + 1.0


def spectrum(run: Run, network: str, epoch: int) -> Vector | None:
    """A network's exponents after an epoch in decreasing order, (K,) nats per step, -inf last; None if not taken."""
    record = run.records(network).get(epoch)
    if record is None or not record.spectrum:
        return None
    return np.sort(np.asarray(record.exponents, dtype=float))[::-1]


def spectra(run: Run, network: str) -> dict[int, Vector]:
    """A network's spectra by epoch, each as from `spectrum`."""
    found = {epoch: spectrum(run, network, epoch) for epoch in sorted(run.records(network))}
    return {epoch: values for epoch, values in found.items() if values is not None}


def lower_limit(spectra: Sequence[Vector]) -> float:
    """Lower limit of an axis of exponents: the lowest one, unless it is far below most others."""
    finite = np.concatenate([values[np.isfinite(values)] for values in spectra]) if spectra else np.zeros(1)
    if not finite.size:
        return -1.0
    bulk = float(np.quantile(finite, 0.02))
    return max(float(finite.min()), bulk - 0.25 * (float(finite.max()) - bulk))


def scatter(run: Run, epoch: int, criterion: str) -> Scatter | None:
    """Values of the criterion "ls" or "loss" at a rung and final values; None for fewer than two candidates."""
    dense = run.records(DENSE).get(epoch)
    records = {name: record for name, record in run.history.at(epoch).items() if name in run.history.finals}
    if criterion == "ls":
        records = {name: record for name, record in records.items() if record.spectrum}
    if dense is None or len(records) < 2 or (criterion == "ls" and not dense.spectrum):
        return None
    early = [
        run.distance(record.exponents, dense.exponents) if criterion == "ls" else run.value(record)
        for record in records.values()
    ]
    final = [run.valid(run.history.finals[name]) for name in records]
    return Scatter(epoch, tuple(records), tuple(early), tuple(final), spearman(early, final))


def finite(points: Scatter) -> Scatter:
    """The points of which both values are finite."""
    everything = zip(points.networks, points.early, points.final, strict=True)
    drawn = [point for point in everything if np.isfinite(point[1:]).all()]
    networks, early, final = zip(*drawn, strict=True) if drawn else ((), (), ())
    return replace(points, networks=networks, early=early, final=final)


def placed_labels(points: Scatter, chosen: set[str]) -> list[tuple[str, tuple[float, float], tuple[int, int]]]:
    """The dots that get a label, with their position and the side of the label.

    Winners always get a label; other candidates only if there is space.
    """
    spans = [max(side, default=0.0) - min(side, default=0.0) or 1.0 for side in (points.early, points.final)]
    at = {name: (x, y) for name, x, y in zip(points.networks, points.early, points.final, strict=True)}
    unit = {name: (x / spans[0], y / spans[1]) for name, (x, y) in at.items()}
    taken = [(x, y, 0.02, 0.025) for x, y in unit.values()]  # centres and half sizes, as fractions of the spans
    found = []
    for name in sorted(at, key=lambda name: name not in chosen):
        sides = [side for side in ((1, 1), (-1, 1), (1, -1), (-1, -1)) if _is_free(_label_box(unit[name], side), taken)]
        if sides or name in chosen:
            side = (sides or [(1, 1)])[0]
            taken.append(_label_box(unit[name], side))
            found.append((name, at[name], side))
    return found


Box = tuple[float, float, float, float]


def _label_box(dot: tuple[float, float], side: tuple[int, int]) -> Box:
    return dot[0] + 0.07 * side[0], dot[1] + 0.035 * side[1], 0.045, 0.025


def _is_free(box: Box, taken: Sequence[Box]) -> bool:
    x, y, width, height = box
    return all(abs(x - a) > width + w or abs(y - b) > height + h for a, b, w, h in taken)


def chance(n: int) -> float:
    """The absolute value that Spearman's correlation of n unrelated pairs exceeds in about 1 case of 20."""
    return 1.96 / math.sqrt(n - 1)


def densities(run: Run, network: str) -> Densities | None:
    """The densities of a network at up to 12 epochs; None if there are none."""
    records = run.history.epochs.get(network, {})
    epochs = evenly_spaced({epoch for epoch, record in records.items() if record.density}, 12)
    if not epochs:
        return None
    groups = {name: len(values) for name, values in records[epochs[0]].density.items()}
    rows = [row for name, count in groups.items() for row in gate_names(name, count)]
    columns = [[value for values in records[epoch].density.values() for value in values] for epoch in epochs]
    values = np.asarray(columns, dtype=float).T  # (R, E)
    churn, ever_active = (
        tuple(getattr(records[epoch], field) for epoch in epochs) for field in ("churn", "ever_active")
    )
    return Densities(tuple(rows), tuple(epochs), values, churn, ever_active)


def gate_names(parameter: str, groups: int) -> list[str]:
    """The names of the gates of a parameter on the page.

    >>> gate_names("rnn.weight_hh_l1", 4)
    ['layer 2 state, i', 'layer 2 state, f', 'layer 2 state, g', 'layer 2 state, o']
    >>> gate_names("rnn.0.r.3", 2), gate_names("rnn.2.weight_ih_l0", 1)
    (['layer 1 state 4, h', 'layer 1 state 4, t'], ['layer 3 input'])
    """
    name = parameter.removesuffix(".weight")
    gates = GATES.get(groups, tuple(str(number + 1) for number in range(groups)))
    if torch_layer := TORCH.fullmatch(name):
        stacked, source, layer = torch_layer.groups()
        name = f"layer {int(stacked or 0) + int(layer) + 1} {SOURCES[source]}"
    elif highway := HIGHWAY.fullmatch(name):
        layer, micro_step = highway.groups()
        name = f"layer {int(layer) + 1} {'input' if micro_step is None else f'state {int(micro_step) + 1}'}"
        gates = ("h", "t", "c")[:groups]
    return [f"{name}, {gate}" if gate else name for gate in gates]
