"""The report: one self-contained HTML page in the run folder, of a finished search or of one that is still running."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hyperpruning.files import write_atomic
from hyperpruning.report import panels, sections
from hyperpruning.report.drawing import with_id_prefix
from hyperpruning.report.run import read_run
from hyperpruning.report.status import status
from hyperpruning.report.tables import results
from hyperpruning.report.trust import trust_said
from hyperpruning.report.verdict import verdict
from hyperpruning.search.history import SMALL


def write_report(folder: Path, path: Path | None = None, *, times: Mapping[str, float] | None = None) -> Path:
    """Write the report of a search, finished or not.

    Args:
        folder: the run folder, which may be read-only if `path` is elsewhere.
        path: of the page; None for ``report.html`` in the run folder.
        times: microseconds of a step by network, for the Pareto view; None: not measured.

    Returns:
        the path of the page.

    Raises:
        RunFolderError: the folder holds no search.
    """
    path = folder / "report.html" if path is None else path
    write_atomic(path, report(folder, times=times).encode())
    return path


def report(folder: Path, *, times: Mapping[str, float] | None = None) -> str:
    """The report of a search as HTML.

    Args:
        folder: the run folder.
        times: as of `write_report`.

    Raises:
        RunFolderError: the folder holds no search.
    """
    run, now, rows = read_run(folder), status(folder), results(folder)
    numbers = count(1)

    def inline(svg: str) -> Markup:
        return Markup(with_id_prefix(svg, f"f{next(numbers)}-"))  # report/figures.py escapes what it writes

    return render(
        "page.html.j2",
        inline=inline,
        name=folder.resolve().name,
        metric=run.metric.name,
        metric_meaning=sections.metric_meaning(run.metric),
        search=sections.search(run, now),
        verdict=verdict(rows, run.notes),
        trust=trust_said(run),
        trained=run.history.trained_epochs(),
        tiles=sections.tiles(run, rows),
        results=sections.results(rows),
        as_many_weights=any(row.network == SMALL for row in rows),
        winner=sections.winner(run),
        setup=sections.setup(run),
        components=sections.component_table(run),
        candidates=sections.candidates(run),
        settings=sections.settings(run),
        pareto=panels.pareto_view(run, times),
        elimination=panels.elimination(run),
        curves=panels.curves(run),
        averaging=panels.averaging(run),
        legend=panels.legend(run),
        spectra=panels.spectra(run),
        predictions=panels.predictions(run),
        correlations=panels.correlation_table(run),
        density=panels.density(run),
        cost=sections.cost(run, now),
        reproducibility=sections.reproducibility(run),
    )


def render(template: str, **values: Any) -> str:
    """A page from one of the templates, with the style of the package."""
    return _environment().get_template(template).render(style=Markup(_style()), **values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hyperpruning.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"accent": accent, "nbsp": nbsp}
    return environment


def _style() -> str:
    return files("hyperpruning.report").joinpath("style.css").read_text(encoding="utf-8")


def accent(criterion: str) -> str:
    """The CSS class of a criterion: its name if it has a colour of its own, "" otherwise.

    >>> accent("ls"), accent("rank_sum"), accent('"><script>')
    ('ls', '', '')
    """
    return criterion if criterion in sections.ACCENTS else ""


def nbsp(text: str) -> str:
    """Keep "f = 0.5", "1 ± 0.1" and "80 %" on one line by no-break spaces; markup stays markup, and text stays text.

    >>> nbsp("f = 0.5, 80 %") == "f\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.5, 80\N{NO-BREAK SPACE}%"
    True
    """
    for sign in "=±":
        text = text.replace(f" {sign} ", f"\N{NO-BREAK SPACE}{sign}\N{NO-BREAK SPACE}")
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
