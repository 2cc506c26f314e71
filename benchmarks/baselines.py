"""Two rules of other libraries on the tables in benchmarks/tables: extrapolated learning curves, and another ASHA.

    pip install "botorch>=0.18" "syne-tune>=0.16"      # neither is a dependency of this project
    OMP_NUM_THREADS=1 python benchmarks/baselines.py   # what benchmarks/results/baselines.json lacks
    OMP_NUM_THREADS=1 python benchmarks/baselines.py lm-long digits
    python benchmarks/evidence.py --page               # the table of docs/results.md

`lkgp` is BoTorch's LatentKroneckerGP (Lin et al. 2024, arXiv 2410.09239) as a criterion: at each rung a Gaussian
process over configs and epochs is fitted to the validation losses of all candidates so far, those that were dropped
included, and the score is the loss that it foretells for the last epoch. Syne Tune's ASHA stops a candidate at a rung
unless it is among the best third of those that have reached it so far; ours promotes from a rung to the next. Both have
one worker and take the candidates of a pool in the same order.

Each search is on the same random pool of 24 as the search of the same seed in evidence.json. The json has the choice
and the epochs of each search. They are computed again where the curves of a table have changed; where it has only got
more seeds, the regrets alone are. More `--searches` continue those that are there. It can be stopped at any moment:
what is lost is the table in progress.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from evidence import CANDIDATES, RESULTS, SCHEDULERS, SEARCHES, TABLES, rounded, schedule, summary

import hyperpruning as hp
from hyperpruning.files import write_atomic
from hyperpruning.search.criteria import CRITERIA, Criterion, Rung
from hyperpruning.search.regression import terms_of
from hyperpruning.search.replay import pool_of, regret_of
from hyperpruning.search.space import Config
from hyperpruning.search.tables import Table

FOUND = RESULTS.with_name("baselines.json")
EXTRAPOLATED = "middle"  # schedule of the searches by extrapolated curves
BESIDE = ("loss", "averaged_loss", "ls")
ITERATIONS = 100  # of L-BFGS at most; later ones hardly change the order of the candidates
OURS, THEIRS = "asha", "Syne Tune's ASHA"
Chosen = tuple[int, int]  # row of the table, epochs of the search


def extrapolation() -> Criterion:
    """A new criterion, which remembers the candidates of one search."""
    seen: dict[str, tuple[Config, list[float]]] = {}

    def lkgp(rung: Rung) -> dict[str, float]:
        for name, records in rung.records.items():
            losses = [records[epoch].valid_loss for epoch in range(1, rung.epoch + 1)]
            seen[name] = rung.configs[name], losses
        foretold = last_losses([config for config, _ in seen.values()], [c for _, c in seen.values()], rung.epochs)
        return {name: score for name, score in zip(seen, foretold, strict=True) if name in rung.records}

    return lkgp


def last_losses(configs: Sequence[Config], curves: Sequence[Sequence[float]], epochs: int) -> list[float]:
    """Logarithms of losses that a LatentKroneckerGP foretells, in units of their deviation above the least so far.

    Epochs are on a log scale, settings and epochs are scaled to [0, 1], and the mean of the process is the least value
    so far. The kernels are Matern's with the priors that are BoTorch's defaults for other models: without priors, which
    is the default of this one, the fit fails at a rung after one epoch.

    Args:
        configs: of N candidates.
        curves: losses of each after epoch 1 and every following one; they may differ in length.
        epochs: of a full training.

    Returns:
        (N,) values.
    """
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.latent_kronecker_gp import LatentKroneckerGP
    from botorch.models.transforms.input import Normalize
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior as kernel
    from botorch.models.utils.gpytorch_modules import get_gaussian_likelihood_with_lognormal_prior as likelihood
    from gpytorch.kernels import ScaleKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    settings = torch.tensor(np.column_stack(terms_of(configs)))  # (N, D)
    known = max(map(len, curves))
    padded = [[*map(math.log, curve), *[math.nan] * (known - len(curve))] for curve in curves]
    losses = torch.tensor(padded, dtype=torch.double)  # (N, known), NaN where a candidate was dropped
    finite = losses[losses.isfinite()]
    times = torch.arange(1, known + 1).double().log()[:, None] / math.log(epochs)  # (known, 1)
    model = LatentKroneckerGP(
        settings,
        times,
        (losses - finite.min()) / finite.std(),
        likelihood(),
        covar_module_X=kernel(settings.shape[1], use_rbf_kernel=False),
        covar_module_T=ScaleKernel(kernel(1, use_rbf_kernel=False)),
        input_transform=Normalize(settings.shape[1]),
        outcome_transform=None,
    )
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": ITERATIONS}})
    with torch.no_grad():
        found: list[float] = model.posterior(settings, torch.ones(1, 1).double()).mean.flatten().tolist()
    return found


def replayed(table: Table, settings: Mapping[str, Any], rule: str, seed: int) -> Chosen:
    """One search by the project's own `decide`."""
    if rule == "lkgp":
        CRITERIA[rule] = extrapolation()
    done = hp.replay(table, seed=seed, n_candidates=CANDIDATES, criteria=(rule,), **settings)
    return done.chosen[rule], done.epochs


def syne_tune(table: Table, seed: int) -> Chosen:
    """One search by Syne Tune's ASHA, which is told the recorded losses; the best of those trained to the end wins."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice
    from syne_tune.optimizer.baselines import ASHA
    from syne_tune.optimizer.scheduler import SchedulerDecision

    pool = pool_of(table, seed, CANDIDATES)
    scheduler = ASHA(
        {"row": choice(sorted(pool))},
        metric="loss",
        time_attr="epoch",
        max_t=table.epochs,
        grace_period=SCHEDULERS[OURS]["min_epochs"],
        reduction_factor=SCHEDULERS[OURS]["reduction_factor"],
        points_to_evaluate=[{"row": row} for row in pool],
        random_seed=seed,
    )
    finals, epochs = {}, 0
    for number in range(CANDIDATES):
        config = scheduler.suggest().config
        trial = Trial(number, config, None)
        scheduler.on_trial_add(trial)
        for epoch in range(1, table.epochs + 1):
            epochs += 1
            loss = float(table.valid[config["row"], epoch])
            if math.isnan(loss):
                scheduler.on_trial_error(trial)
                break
            if scheduler.on_trial_result(trial, {"loss": loss, "epoch": epoch}) == SchedulerDecision.STOP:
                if epoch == table.epochs:
                    finals[config["row"]] = float(table.final_valid[config["row"], 0])
                break
    return min(finals, key=finals.__getitem__), epochs


def choices(table: Table, known: Mapping[str, Mapping[str, Sequence[Chosen]]], fitted: int) -> dict[str, Any]:
    """What every rule chooses, by kind of search, rule and seed; `known` is continued.

    Args:
        table: the pool.
        known: earlier choices.
        fitted: number of searches with the schedule of `lkgp`.
    """
    middle, asha = schedule(table, EXTRAPOLATED), SCHEDULERS[OURS]
    searches: dict[tuple[str, str], tuple[int, Callable[[int], Chosen]]] = {
        (EXTRAPOLATED, rule): (fitted, partial(replayed, table, middle, rule)) for rule in (*BESIDE, "lkgp")
    }
    searches[OURS, "loss"] = SEARCHES, partial(replayed, table, asha, "loss")
    searches[OURS, THEIRS] = SEARCHES, partial(syne_tune, table)
    found: dict[str, dict[str, list[Chosen]]] = {EXTRAPOLATED: {}, OURS: {}}
    for (kind, rule), (count, search) in searches.items():
        earlier = known.get(kind, {}).get(rule, [])
        found[kind][rule] = [*earlier, *(search(seed) for seed in range(len(earlier), count))]
    return found


def summaries(table: Table, chosen: Mapping[str, Mapping[str, Sequence[Chosen]]]) -> dict[str, Any]:
    """Regrets and epochs of each kind of search and rule, with differences from the loss in pairs."""

    def measured(each: Sequence[Chosen]) -> list[tuple[float, int]]:
        pools = (pool_of(table, seed, CANDIDATES) for seed in range(len(each)))
        return [(regret_of(table, pool, row), epochs) for pool, (row, epochs) in zip(pools, each, strict=True)]

    return {kind: summary({rule: measured(each) for rule, each in rules.items()}) for kind, rules in chosen.items()}


def curves_of(table: Table) -> str:
    """A checksum of everything on which choices depend."""
    text = json.dumps([table.configs, table.spectrum_epochs])
    arrays = (table.valid, table.averaged, table.spectra, table.final_valid[:, 0])
    return hashlib.sha256(text.encode() + b"".join(array.tobytes() for array in arrays)).hexdigest()


def main() -> None:
    """Search where the results lack something, and write them after each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tables; default all")
    parser.add_argument("--searches", type=int, default=20, help="by lkgp for each table, whose fits take seconds")
    given = parser.parse_args()
    logging.getLogger("syne_tune").setLevel(logging.ERROR)  # its ASHA warns of its own arguments
    for path in sorted(TABLES.glob("*.npz")):
        if given.names and path.stem not in given.names:
            continue
        table, start = hp.load_table(path), time.perf_counter()
        found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
        curves, known = curves_of(table), found.get(table.name, {})
        try:
            chosen = choices(table, known["chosen"] if known.get("curves") == curves else {}, given.searches)
        except ModuleNotFoundError as error:
            parser.error(
                f"BoTorch and Syne Tune must be installed, got no module {error.name}. "
                'Run: pip install "botorch>=0.18" "syne-tune>=0.16"'
            )
        found[table.name] = {"curves": curves, "chosen": chosen, "searches": rounded(summaries(table, chosen))}
        write_atomic(FOUND, (json.dumps(dict(sorted(found.items()))) + "\n").encode())
        print(f"{table.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
