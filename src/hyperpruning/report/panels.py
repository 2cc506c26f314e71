"""The sections of the page that hold figures, each with the words that say how to read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hyperpruning.report import figures, series
from hyperpruning.report.markup import figure, legend, missing, panel, paragraph, table
from hyperpruning.report.run import Run, choices, criterion_name
from hyperpruning.report.tables import correlations, pivot, signed, some
from hyperpruning.search.history import DENSE

BY_RANK = ("leading", "wasserstein")  # distances that sort the exponents before they compare them


def elimination(run: Run) -> list[str]:
    """One bracket for each judge."""
    if not run.history.candidates:
        return [missing("No candidate has been suggested yet.")]
    width = _width(len(run.plan.criteria))
    drawn = []
    for judge in run.plan.criteria:
        lines = series.bracket(run, judge)
        svg = figures.bracket(lines, criterion=judge, rungs=run.plan.rungs, epochs=run.epochs, width=width)
        name = criterion_name(judge)
        drawn.append(panel(svg, name[:1].upper() + name[1:], judge))
    caption = (
        "Each line is a candidate, as long as the number of epochs that this judge let it train; it ends in a bar "
        "where the judge, looking at the dashed epochs, eliminated it, and in a cross where it failed. Together the "
        "lines are what the search costs. The thick line is the choice: the finalist with the lowest validation "
        "perplexity (at the right). Candidates stand in the order of their success with this judge."
    )
    return [figure(*drawn, caption=caption)]


def _width(panels: int) -> float:
    """The width of a figure, in inches, of which so many stand beside each other."""
    return 3.7 if panels == 3 else figures.WIDTH


def _label(judges: Sequence[str]) -> str:
    """ "LSH's and the loss's choice"."""
    owners = [f"{criterion_name(judge)}'s" for judge in judges]
    return f"{', '.join(owners[:-1])} and {owners[-1]} choice" if len(owners) > 1 else f"{owners[0]} choice"


def _marked(run: Run) -> dict[str, tuple[str, str]]:
    """The chosen networks: label and colour of each."""
    return {name: (f"{_label(judges)} ({name})", figures.colour(judges)) for name, judges in choices(run).items()}


def _legend(run: Run) -> str:
    marks = {label: (shade, shade == figures.OTHER) for label, shade in _marked(run).values()}
    others = "other candidates" if marks else "candidates"
    return legend({"dense": (figures.INK, False)} | marks | {others: (figures.FAINT, False)})


def perplexities(run: Run) -> list[str]:
    """Perplexity over epochs of everybody, whole and from the last round on."""
    marks = _marked(run)
    curves = {name: series.curve(run, name) for name in (DENSE, *run.history.candidates)}
    curves = {name: found for name, found in curves.items() if found[0]}
    if not curves:
        return [missing("No epoch has been trained yet.")]
    marked = [(*curves[name], marks[name][1]) for name in curves if name in marks]
    marked += [(*curves[DENSE], figures.INK)] if DENSE in curves else []
    others = [found for name, found in curves.items() if name not in marks and name != DENSE]
    last = max(epochs[-1] for epochs, _ in curves.values())
    titles = {1: "From the first epoch"}
    if 1 < run.plan.rungs[-1] < last:
        titles[run.plan.rungs[-1]] = "From the last round"
    drawn = []
    for first, title in titles.items():
        low, top = series.extent(list(curves.values()), first)
        svg = figures.curves(others, marked, first=first, last=last, rungs=run.plan.rungs, low=low, top=top)
        drawn.append(panel(svg, title if len(titles) > 1 else ""))
    caption = (
        "Perplexity on the validation text after each epoch: how many equally likely tokens the network is left to "
        "choose from, lower is better. Grey lines end where every judge had eliminated the candidate; dashed: the "
        "epochs at which the judges look. What lies beyond the upper edge is cut off."
    )
    return [_legend(run), figure(*drawn, caption=caption)]


def spectra(run: Run) -> list[str]:
    """The dense network's spectra over epochs, and the candidates' beside it at the first and the last rung."""
    dense = series.spectra(run, DENSE)
    if not dense:
        return [missing("The dense network has no spectrum yet.")]
    found = {epoch: _spectra_at(run, epoch) for epoch in (run.plan.rungs[0], run.plan.rungs[-1]) if epoch in dense}
    found = {epoch: each for epoch, each in found.items() if each}
    everything = [*dense.values(), *(values for each in found.values() for values in each.values())]
    low, marks, width = series.lowest(everything), _marked(run), _width(1 + len(found))
    drawn = [panel(figures.dense_spectra(dense, low=low, width=width), "The dense network")]
    for epoch, each in found.items():
        marked = [(each[name], marks[name][1]) for name in each if name in marks]
        others = [values for name, values in each.items() if name not in marks]
        svg = figures.candidate_spectra(epoch, dense[epoch], others, marked, low=low, width=width)
        drawn.append(panel(svg, f"Candidates after epoch {epoch}"))
    return [_legend(run) if found else "", figure(*drawn, caption=_spectra_caption(run, everything, low))]


def _spectra_at(run: Run, epoch: int) -> dict[str, series.Vector]:
    found = {name: series.spectrum(run, name, epoch) for name in run.history.candidates}
    return {name: values for name, values in found.items() if values is not None}


def _spectra_caption(run: Run, everything: Sequence[series.Vector], low: float) -> str:
    caption = (
        "Each curve is a network: its Lyapunov exponents from the largest to the smallest, the mean rates at which a "
        "small disturbance of the recurrent state grows (above zero) or is forgotten (below) while the network reads. "
        f"First the dense network, from light (epoch {min(series.spectra(run, DENSE))}) to dark; then the candidates "
        "beside it at epochs at which the judges look. LSH prefers the candidate whose spectrum lies nearest to the "
        f"dense one's (distance: {run.plan.distance})."
    )
    if run.plan.distance not in BY_RANK:
        caption += " The distance compares the exponents unit by unit, not in the sorted order that is drawn."
    if any(values[-1] < low for values in everything):
        caption += f" Exponents below {low:.1f} are cut off"
        forgotten = any(math.isinf(values[-1]) for values in everything)
        caption += ", among them some of -∞, directions forgotten at once." if forgotten else "."
    return caption


def predictions(run: Run) -> list[str]:
    """What LS distance and loss said at the rungs against the end, and the table of correlations."""
    chosen = choices(run)
    names = {"ls": f"LS distance ({run.plan.distance})", "loss": "Validation perplexity"}
    drawn = []
    for rung in dict.fromkeys((run.plan.rungs[0], run.plan.rungs[-1])):
        for judge, name in names.items():
            points = series.scatter(run, rung, judge)
            if points is not None:
                known = "too few to correlate" if points.rho is None else f"rank correlation {points.rho:+.2f}"
                svg = figures.scatter(points, chosen, xlabel=f"{name} after epoch {rung}")
                drawn.append(panel(svg, f"{name}, epoch {rung}: {known}", judge))
    if not drawn:
        return [missing("This needs candidates that are trained to the end, and there are fewer than two.")]
    caption = (
        "Each dot is a candidate trained to the end: to the right what a judge saw early, upwards where it ended. A "
        "good judge puts the dots on a rising line; Spearman's rank correlation says how nearly (+1: the same order, "
        "0: none, -1: the reverse). Coloured: the judges' choices. Names are left out where there is no room."
    )
    if not run.all_trained:
        caption += (
            f" Only {len(run.ended)} of {run.n_candidates} candidates are here, those that some criterion kept: they "
            "are much alike, so little can be read from them. A search with train_all = true shows all."
        )
    return [figure(*drawn, caption=caption, layout="grid"), *_correlations(run)]


def _correlations(run: Run) -> list[str]:
    found = correlations(run.folder)
    lines, n = pivot(found), max((correlation.n for correlation in found), default=0)
    if not any(correlation.rho is not None for correlation in found):
        return [missing("A rank correlation takes at least 4 candidates trained to the end.")]
    epochs = some({correlation.epoch for correlation in found}, 10)
    cells = [[each[epoch].rho for epoch in epochs] for each in lines.values()]
    best = [max((rho for rho in column if rho is not None), default=None) for column in zip(*cells, strict=True)]
    bold = {
        (row, column + 1)
        for row, values in enumerate(cells)
        for column, rho in enumerate(values)
        if rho is not None and signed(rho) == signed(best[column]) and rho > 0
    }
    rows = [[name, *map(signed, values)] for name, values in zip(lines, cells, strict=True)]
    kinds = ["ls" if name.endswith(f", {run.plan.distance}") else "" for name in lines]
    kinds = ["loss" if name == "validation loss" else kind for name, kind in zip(lines, kinds, strict=True)]
    note = (
        f"Spearman's rank correlation with the final validation loss over n = {n} candidates, by what was known after "
        "each epoch; the highest of each epoch in bold. In blue the LS distance that this search used, then the other "
        "ways to compare two spectra. Drop fraction is the trivial baseline, a setting that is known without any "
        f"training. Of {n} unrelated pairs one in twenty correlates by more than ±{series.chance(n):.2f}."
    )
    head = ["rank correlation with the end", *(f"epoch {epoch}" for epoch in epochs)]
    return ["<h3>Rank correlations</h3>", table(head, rows, kinds=kinds, bold=frozenset(bold)), paragraph(note, "note")]


def density(run: Run) -> list[str]:
    """Density of the winner, by tensor and gate, and how its weights change places."""
    name = run.winner or next(iter(run.ended), None)
    found = series.densities(run, name) if name is not None else None
    if name is None or found is None:
        return [missing("Nobody has been chosen yet.")]
    caption = (
        f"The fraction of weights that {name} keeps active in each matrix and gate, epoch by epoch: darker is denser. "
        "Input matrices read from the layer below, state matrices from the same layer one step before; an LSTM's gates "
        "are i (input), f (forget), g (candidate), o (output), a GRU's r (reset), z (update), n (new). The number of "
        "active weights of the whole network is the asked one."
    )
    head = ["of the network", *(f"epoch {epoch}" for epoch in found.epochs)]
    lines = {"active weights replaced in the epoch": found.churn, "weights active at some time": found.ever_active}
    rows = [[name, *(f"{100 * value:.1f} %" for value in values)] for name, values in lines.items()]
    return [figure(panel(figures.densities(found)), caption=caption, layout="map"), table(head, rows)]
