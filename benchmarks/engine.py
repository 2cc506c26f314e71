"""The engine beside Optuna's, on a task whose training is free: benchmarks/engine.py.

    python benchmarks/engine.py [--candidates 200] [--out /tmp/engine]

Both search the same space with TPE and successive halving (rungs after 1, 3 and 9 of 27 epochs, a third is kept), in
two processes; the loss is a function of the config and the epoch. Ours writes its ledger with a fsync for each line,
Optuna its SQLite storage. Each is run whole, and once killed with SIGKILL (the whole process group) when half of the
candidates are known, and continued. Where it is installed, Syne Tune runs beside them (BOHB, which is ASHA with a
density estimate, on its local backend), with a quarter of the candidates, since it starts a process for each and
polls them. Then a pool is simulated: `decide` alone, without training or a sampler. Prints
tables and writes benchmarks/results/engine.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from engine_trial import CHOICES, EPOCHS, HIGH, LOW, RUNGS, STEP, loss_of
from measuring import table

import hyperpruning as hp
from hyperpruning.search.actions import Finish, Record, Suggest, Train
from hyperpruning.search.driver import search
from hyperpruning.search.history import DENSE, Candidate, Epoch, FinalResult, History, Winner
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.schedulers import decide, observations
from hyperpruning.search.worker import Job, JobResult
from hyperpruning.search.worker_pool import WorkerPool
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.record import EpochRecord

RESULTS = Path(__file__).parent / "results" / "engine.json"
ENTRY = Path(__file__).with_name("engine_trial.py")
SYNE_TUNE = "syne-tune"


def from_table(job: Job) -> JobResult:
    """What a job would give, from the table."""
    losses = [loss_of(*_coordinates(job), epoch) for epoch in range(job.until + 1)]
    records = tuple(EpochRecord(epoch, None, loss, 10, {}, 0.0) for epoch, loss in enumerate(losses))
    final = FinalResult(job.name, job.until, losses[-1], losses[-1], 10, "0" * 64)
    return JobResult(records, final if job.until == job.train.epochs else None)


def _coordinates(job: Job) -> tuple[int, int, float]:
    """The row of the table of a job's method; the dense reference is the best one."""
    if job.method is None:
        return 0, 0, 0.55
    config = to_config(job.method)
    allocation, scope = (CHOICES[name].index(str(config[name])) for name in CHOICES)
    return allocation, scope, float(config["drop_fraction"])


class TableLookups(WorkerPool):
    """Two processes that look results up instead of training."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a lookup for each job."""
        if args and isinstance(args[0], Job):
            return super().submit(from_table, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)


def plan_of(candidates: int) -> hp.Plan:
    """The search."""
    task = TinyTask()
    return hp.Plan(
        task=task,
        dense_task=task,
        train=hp.TrainConfig(epochs=EPOCHS, optimizer="sgd", lr=0.1, updates_per_epoch=1, device="cpu"),
        sparsity=0.5,
        space=hp.SearchSpace({**CHOICES, "drop_fraction": hp.FloatRange(LOW, HIGH, STEP)}),
        n_candidates=candidates,
        ask_batch=2,
        scheduler="halving",
        min_epochs=RUNGS[0],
        reduction_factor=3,
        criteria=("loss",),
        as_many_weights=False,
        spectrum=hp.SpectrumConfig(warmup=2),
    )


def run_ours(folder: Path, candidates: int) -> None:
    """Ours: run or continue."""
    with TableLookups(2) as pool:
        search(plan_of(candidates), folder, executor=pool)


def run_optuna(folder: Path, candidates: int) -> None:
    """Optuna: two processes share a SQLite storage; each is begun by `work`."""
    folder.mkdir(parents=True, exist_ok=True)
    with _optuna_study(folder) as study:
        todo = candidates - len([one for one in study.trials if one.state.is_finished()])
    halves = [todo - todo // 2, todo // 2]
    command = [sys.executable, __file__, "--part", "worker", "--out", str(folder), "--candidates"]
    workers = [subprocess.Popen([*command, str(half), "--seed", str(seed)]) for seed, half in enumerate(halves)]
    assert all(worker.wait() == 0 for worker in workers)


class _optuna_study:
    """The study of a folder; its connections are closed at the end."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        self.study = optuna.create_study(
            storage=self.storage,
            study_name="engine",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )

    def __enter__(self) -> optuna.Study:
        return self.study

    def __exit__(self, *problem: object) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()


def optuna_worker(folder: Path, trials: int, seed: int) -> None:
    """One process of Optuna."""

    def objective(trial: optuna.Trial) -> float:
        chosen = [names.index(trial.suggest_categorical(key, names)) for key, names in CHOICES.items()]
        fraction = trial.suggest_float("drop_fraction", LOW, HIGH, step=STEP)
        for epoch in range(1, EPOCHS + 1):
            loss = loss_of(chosen[0], chosen[1], fraction, epoch)
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    with _optuna_study(folder, seed) as study:
        study.optimize(objective, n_trials=trials)


def run_syne_tune(folder: Path, candidates: int) -> None:
    """Syne Tune: its local backend starts a process for each trial, two at a time; the tuner is saved every second."""
    os.environ["SYNETUNE_FOLDER"] = str(folder)
    from syne_tune import Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import choice, finrange
    from syne_tune.optimizer.baselines import BOHB

    if (folder / "engine" / "tuner.dill").exists():
        Tuner.load(str(folder / "engine")).run()
        return
    space = {name: choice(list(names)) for name, names in CHOICES.items()}
    space["drop_fraction"] = finrange(LOW, HIGH, round((HIGH - LOW) / STEP) + 1)
    scheduler = BOHB(space, metric="loss", time_attr="epoch", max_t=EPOCHS, reduction_factor=3, random_seed=0)
    Tuner(
        trial_backend=LocalBackend(str(ENTRY)),
        scheduler=scheduler,
        stop_criterion=lambda status: status.num_trials_finished >= candidates,
        n_workers=2,
        sleep_time=0.1,
        results_update_interval=1.0,
        tuner_name="engine",
        suffix_tuner_name=False,
    ).run()


def syne_configs(folder: Path) -> dict[int, str]:
    """The configs of the trials of Syne Tune that have begun, by their number."""
    return {int(path.parent.name): path.read_text() for path in folder.glob("engine/*/config.json")}


def candidates_known(what: str, folder: Path) -> int:
    """How many candidates have begun."""
    try:
        if what == "ours":
            return (folder / LEDGER).read_bytes().count(b'"kind": "candidate"')
        if what == SYNE_TUNE:
            return len(syne_configs(folder))
        with sqlite3.connect(f"file:{folder / 'optuna.db'}?mode=ro", uri=True, timeout=60) as database:
            return int(database.execute("select count(*) from trials").fetchone()[0])
    except (OSError, sqlite3.Error):
        return 0


def started(what: str, folder: Path, candidates: int) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    command = [sys.executable, __file__, "--part", what, "--out", str(folder), "--candidates", str(candidates)]
    return subprocess.Popen(command, start_new_session=True)


def await_candidates(what: str, folder: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Wait until so many candidates of a running process have begun."""
    while candidates_known(what, folder) < count:
        if process.poll():
            raise RuntimeError(f"{what} must run, got exit code {process.returncode}. Its error is above.")
        time.sleep(0.02)


def whole_and_killed(what: str, out: Path, candidates: int) -> dict[str, Any]:
    """Run whole, and once killed in the middle and continued; what both gave."""
    whole, killed = out / f"{what}-whole", out / f"{what}-killed"
    begun, process = time.perf_counter(), started(what, whole, candidates)
    await_candidates(what, whole, process, 1)
    first = time.perf_counter()
    _, status, used = os.wait4(process.pid, 0)  # of the process and of those it waited for
    process.returncode = status
    assert status == 0
    seconds = time.perf_counter() - first
    process = started(what, killed, candidates)
    await_candidates(what, killed, process, candidates // 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    known = candidates_known(what, killed)
    shutil.copytree(killed, out / f"{what}-at-kill")
    assert started(what, killed, candidates).wait() == 0
    return {
        "engine": what,
        "candidates/s": candidates / seconds,
        "start-up s": first - begun,
        "cpu s/candidate": (used.ru_utime + used.ru_stime) / candidates,
        "MiB": round(used.ru_maxrss / 1024),
        "candidates": candidates,
        "at kill": known,
        **left_behind(what, whole, killed, candidates),
    }


def left_behind(what: str, whole: Path, killed: Path, candidates: int) -> dict[str, Any]:
    """What a killed and continued run has lost, repeated or left running."""
    if what == "ours":
        lines = [json.loads(line) for line in (killed / LEDGER).read_text().splitlines()]
        epochs = [(one["network"], one["epoch"]) for one in lines if one["kind"] == "epoch"]
        names = [one["name"] for one in lines if one["kind"] == "candidate"]
        without = [name for name in names if name not in read(killed).epochs]
        same = (whole / LEDGER).read_bytes() == (killed / LEDGER).read_bytes()
        repeated = len(epochs) - len(set(epochs)) + len(names) - len(set(names))
        return {
            "lost": candidates - len(names),
            "repeated": repeated,
            "zombies": len(without),
            "same as whole": "yes" if same else "no",
        }
    if what == SYNE_TUNE:
        return syne_tune_left_behind(killed)
    with _optuna_study(killed) as study:
        trials = study.trials
        done = [one for one in trials if one.state.is_finished()]
        configs = [tuple(one.params.values()) for one in done]
    return {
        "lost": len(trials) - len(done),  # begun, and never finished
        "repeated": len(configs) - len(set(configs)),
        "zombies": sum(one.state == optuna.trial.TrialState.RUNNING for one in trials),
        "same as whole": "no",  # with two processes no run repeats another
    }


def syne_tune_left_behind(killed: Path) -> dict[str, Any]:
    """The same of Syne Tune, by what its saved tuner says of the trials that had begun at the kill, and of all."""
    from syne_tune import Tuner

    begun = syne_configs(killed.with_name(f"{SYNE_TUNE}-at-kill"))
    status = Tuner.load(str(killed / "engine")).tuning_status.last_trial_status_seen
    finished = {number: syne_configs(killed)[number] for number, one in status.items() if one != "InProgress"}
    return {
        "lost": sum(finished.get(number) != config for number, config in begun.items()),
        "repeated": len(finished) - len(set(finished.values())),
        "zombies": sum(status.get(number) == "InProgress" for number in begun),
        "same as whole": "no",
    }


def simulated(candidates: int, *, observing: bool) -> dict[str, Any]:
    """A pool that is decided with random results; processor times of the decisions."""
    plan = hp.Plan(
        task=None,
        dense_task=None,
        train=hp.TrainConfig(epochs=9),
        space=hp.SearchSpace({}),
        n_candidates=candidates,
        rungs=(1, 3),
        keep=(candidates // 3, candidates // 9),
        criteria=("ls", "loss", "rank_sum"),
    )
    draw, history, times = random.Random(0), History(), []
    begun = time.perf_counter()
    while True:
        started = time.process_time()
        actions = decide(plan, history)
        if observing and actions and isinstance(actions[0], Suggest):
            observations(plan, history, actions[0].batch)
        times.append(time.process_time() - started)
        if not actions:
            break
        for action in actions:
            _invent(plan, history, action, draw)
    times.sort()
    return {
        "candidates": candidates,
        "decisions": len(times),
        "seconds in all": time.perf_counter() - begun,
        "cpu s deciding": sum(times),
        "median ms": 1000 * times[len(times) // 2],
        "largest ms": 1000 * times[-1],
        "MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _invent(plan: hp.Plan, history: History, action: Any, draw: random.Random) -> None:
    """Add random results of an action."""
    match action:
        case Suggest():
            for name in action.names:
                history.add(Candidate(name, action.batch, {"drop_fraction": draw.random()}))
        case Record():
            history.add(action.fact)
        case Finish():
            for criterion, network in action.winners.items():
                history.add(Winner(criterion, network))
        case Train(network, until):
            for epoch in range(history.trained(network) + 1, until + 1):
                spectrum = tuple(draw.random() for _ in range(64))
                history.add(Epoch(network, EpochRecord(epoch, None, draw.random(), 4, {}, 0.0, spectrum=spectrum)))
            if until == plan.train.epochs or (network == DENSE and plan.dense is not None):
                history.add(FinalResult(network, 1, draw.random(), 0.5, 4, ""))


def main() -> None:
    """Run all, print the tables, write the numbers; or run one part, which this script starts itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("/tmp/engine"))
    parser.add_argument("--part", choices=("ours", "optuna", SYNE_TUNE, "worker"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "worker":
        optuna_worker(options.out, options.candidates, options.seed)
    elif options.part is not None:
        {"ours": run_ours, "optuna": run_optuna, SYNE_TUNE: run_syne_tune}[options.part](
            options.out, options.candidates
        )
    else:
        shutil.rmtree(options.out, ignore_errors=True)
        engines = [whole_and_killed(what, options.out, options.candidates) for what in ("ours", "optuna")]
        if importlib.util.find_spec("syne_tune"):
            engines.append(whole_and_killed(SYNE_TUNE, options.out, options.candidates // 4))
        else:
            sys.stdout.write("Syne Tune is skipped: the package syne-tune is not installed.\n")
        table(engines)
        pools = [simulated(1000, observing=True), simulated(10_000, observing=False)]
        table(pools)
        RESULTS.write_text(json.dumps({"engines": engines, "simulated": pools}, indent=1) + "\n")


if __name__ == "__main__":
    main()
