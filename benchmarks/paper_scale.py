"""The published search of a stacked LSTM on the Penn Treebank, in slices of less than ten minutes.

    python benchmarks/paper_scale.py --data DIR     # DIR: the Penn Treebank; call it again until it says "finished"
    python benchmarks/paper_scale.py --small        # the same search, a tiny network, Python's help texts: minutes

Every call is a slice: it goes on where the last one stopped, stops after an epoch before --seconds are over, writes to
--state all that the next one needs, and prints the table so far. The results do not depend on where it was cut.

Needs torch, numpy and optuna, and nothing installed: PYTHONPATH=src will do. It does without pydantic (the plan is
built here), safetensors and matplotlib (no model files, no report: --scratch is a run folder like any other, see
`hyperprune report`), typer and rich, and without filelock: that no two calls share a --scratch is up to you.

Cost, with E epochs in all and the rounds as below (26 candidates, E = 100; search/forecast.py): the search by one
criterion trains 26 x 3 + (14 + 8 + 5 + 3) x 3 + 2 x (E - 15) = 338 epochs, three that never agree 810, and the dense
network E more; times the seconds of an epoch, which every slice prints. The finalists of each criterion are trained
out, so --criteria ls saves up to 472 epochs, and the comparison with the loss.

--state holds the ledger and what fits of the checkpoints into --state-limit. One of 66 M weights does not (0.7 GB, 1.2
with averages), so at this size the state is the ledger, some 25 MB at the end, and a machine that begins with an empty
--scratch trains anew what it continues; the last line says how much that is. A machine that is kept between two slices
loses nothing. --scratch needs about 40 GB: two checkpoints of each network of the pool. Trained again, a network is the
same to the bit on a CPU; on a GPU it may differ a little from its first epochs in the ledger.

Different from the published runs: no threshold among the drops (global magnitude drops exactly what it aims at, and
`update = "published_threshold"` is no point of this space: it ignores the scope of the drop, so that three spellings
would be one method, and misses the budget); SET without its sign error; exact budgets; suggestions in generations of
six; spectra in nats, measured at four segments; mask updates in the middle of an epoch; test losses of one unbroken
text; an embedding that starts normal, and a decoder that starts as torch has it. The plan is that of the preset
stacked-lstm-ptb.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paper_table import cost_in_words, left_in_words, records, results
from slicing import PART, PARTS, Budget, OneByOne, OutOfTimeError, needed, pack, unpack

import hyperpruning as hp
from hyperpruning.search.criteria import CRITERIA
from hyperpruning.search.driver import check_run_folder, search
from hyperpruning.search.ledger import LEDGER, RunFolderError, read
from hyperpruning.tasks.language_modelling import perplexity
from hyperpruning.training.config import PRECISIONS
from hyperpruning.training.record import EpochRecord

E0, EI, FINALISTS = 3, 3, 2  # epochs of the pool, epochs between two rounds, how many are trained out
WARMUP, STEPS, SEQUENCES = 10, 35, 5
MIB = 2**20

TASK = hp.LanguageModelling(
    unit="word",
    known="ptb",
    embedding=1500,
    hidden=1500,
    layers=2,
    dropout=0.65,
    embedding_std=0.06,  # that of U(-0.1, 0.1)
    batch=20,
    bptt=35,
    probe_steps=WARMUP + STEPS,
    probe_batch=SEQUENCES,
)
TRAIN = hp.TrainConfig(
    epochs=100,
    lr=40.0,
    max_grad_norm=0.25,
    weight_decay=1.2e-6,
    average_from=1.0,  # by the trigger alone
    non_monotone=5,
    updates_per_epoch=1,
)
SPACE = hp.SearchSpace(
    {
        "allocation": ("uniform", "er"),
        "drop_scope": ("tensor", "sign", "global"),  # by magnitude; "sign" is SET's
        "redistribute": ("none", "nonzeros", "magnitude"),
        "regrowth_init": ("keep",),  # what is dropped and regrown at once
        "drop_fraction": hp.FloatRange(0.4, 0.9, 0.1),
    }
)
# what --small changes
SMALL_TASK: dict[str, Any] = {
    "unit": "character",
    "known": None,
    "embedding": 16,
    "hidden": 16,
    "dropout": 0.1,
    "embedding_std": 1.0,
    "batch": 50,
    "eval_batch": 50,
}
SMALL_TRAIN: dict[str, Any] = {"epochs": 15, "lr": 10.0, "average_from": 0.6, "non_monotone": 0}


def rounds(pool: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The published rounds: floor(n / 2) + 1 of n go on, every three epochs, until two are left.

    >>> rounds(26)
    ((3, 6, 9, 12, 15), (14, 8, 5, 3, 2))
    """
    keep = [pool // 2 + 1]
    while keep[-1] > FINALISTS:
        keep.append(keep[-1] // 2 + 1)
    return tuple(E0 + EI * number for number in range(len(keep))), tuple(keep)


def plan(options: argparse.Namespace) -> hp.Plan:
    """The search that is asked for."""
    task, train = TASK, replace(TRAIN, seed=options.seed)
    if options.small:
        task, train = replace(task, **SMALL_TASK), replace(train, **SMALL_TRAIN)
    task = replace(task, folder=options.data if options.small else folder_of_the_data(options.data))
    rungs, keep = rounds(options.n_candidates)
    return hp.Plan(
        task=task,
        dense_task=task,
        train=replace(
            train,
            epochs=train.epochs if options.epochs is None else options.epochs,
            device=options.device,
            precision=options.precision,
        ),
        sparsity=0.67,
        space=SPACE,
        n_candidates=options.n_candidates,
        rungs=rungs,
        keep=keep,
        criteria=tuple(options.criteria),
        as_many_weights=False,  # as in the published search
        spectrum=hp.SpectrumConfig("h", WARMUP),
    )


def folder_of_the_data(given: Path | None) -> Path:
    """Where the Penn Treebank is.

    Raises:
        ValueError: nobody says it.
    """
    place = os.environ.get("HYPERPRUNING_DATA")
    folder = given or (Path(place) / "ptb" if place else None)
    if folder is None or not folder.is_dir():
        raise ValueError(
            f"Paper scale is that of the Penn Treebank, and its folder is {folder}: give --data DIR with the three "
            "files, or HYPERPRUNING_DATA=DIR with ptb/ in it; --small needs no data."
        )
    return folder


def run(asked: hp.Plan, options: argparse.Namespace, clock: Callable[[], float]) -> bool:
    """One slice; returns whether the search is finished."""
    budget, scratch = Budget(options.seconds, clock), options.scratch or scratch_of(asked)
    unpack(asked, options.state, scratch)
    check_run_folder(asked, scratch)

    def tell(name: str, record: EpochRecord, seconds: float) -> None:
        print(f"{name} epoch {record.epoch}: {perplexity(record.valid_loss):.2f}, {seconds:.1f} s", flush=True)

    finished = False
    try:
        search(asked, scratch, executor=OneByOne(budget, tell), lock=False)
        finished = True
    except OutOfTimeError:
        pass
    finally:  # an error or Ctrl-C loses no more than the end of the time does
        if (scratch / LEDGER).exists():
            history = read(scratch)
            packed = pack(scratch, options.state, needed(asked, history), int(options.state_limit * MIB))
            found = records(history, scratch)
            print(f"\n{results(asked, history, found, published=not options.small)}\n")
            print(left_in_words(asked, history, found, packed, budget))
    return finished


def scratch_of(asked: hp.Plan) -> Path:
    """A temporary folder that belongs to this search alone."""
    identity = json.dumps(asked.identity(), sort_keys=True).encode()
    return Path(tempfile.gettempdir()) / f"hyperpruning-{hashlib.sha256(identity).hexdigest()[:12]}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the Penn Treebank's folder; default: HYPERPRUNING_DATA/ptb")
    parser.add_argument("--small", action="store_true", help="a tiny network; of --data's characters, or built-in text")
    parser.add_argument("--n-candidates", type=int, help="candidates; default 26, small 6")
    parser.add_argument("--epochs", type=int, help="of a full training; default 100, small 15")
    parser.add_argument(
        "--criteria",
        nargs="+",
        choices=list(CRITERIA),
        default=["ls", "loss", "averaged_loss"],
        help="selection criteria",
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="auto", help='"cpu" or "cuda"; "auto" is the GPU where there is one')
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="while training")
    parser.add_argument("--seconds", type=float, default=540, help="of a slice; inf: all in one go")
    parser.add_argument("--state", type=Path, default=Path("runs/paper_scale"), help="folder that is carried on")
    parser.add_argument("--state-limit", type=float, default=60, help="MiB of it; files have 16 at most")
    parser.add_argument("--scratch", type=Path, help="run folder with all checkpoints; default: a temporary one")
    options = parser.parse_args(arguments)
    if options.n_candidates is None:
        options.n_candidates = 6 if options.small else 26
    if not 0 < options.state_limit * MIB <= PART * PARTS:
        parser.error(
            f"--state-limit lies above 0 and is at most {PART * PARTS // MIB}, and it is {options.state_limit}"
        )
    return options


def main(arguments: Sequence[str] | None = None, clock: Callable[[], float] = time.monotonic) -> bool:
    """Read the options, run a slice; returns whether the search is finished."""
    options = parsed(arguments)
    try:
        asked = plan(options)
        print(cost_in_words(asked), flush=True)
        finished = run(asked, options, clock)
    except (ValueError, RunFolderError) as error:
        raise SystemExit(str(error)) from None
    print("finished" if finished else "to be continued: call this again")
    return finished


if __name__ == "__main__":
    main()
