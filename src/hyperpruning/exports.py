"""The networks of a search as model files and folders: which one is the winner, and the dense one of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hyperpruning.deploy.compact import check_precision
from hyperpruning.deploy.model_file import ModelFileError, load_weights, save_model, save_plain
from hyperpruning.deploy.model_folder import PLAIN, is_model_folder, load, save_folder
from hyperpruning.deploy.parts import network_parts
from hyperpruning.experiment import EXPERIMENT, Experiment, read_experiment
from hyperpruning.files import weights_sha256
from hyperpruning.network_costs import costs, record_costs, with_step_times
from hyperpruning.report.card import model_card
from hyperpruning.report.page import write_report
from hyperpruning.report.run import WINNER, file_of, read_run
from hyperpruning.search.driver import check_run_folder, job_of
from hyperpruning.search.finalists import winner
from hyperpruning.search.history import DENSE, SMALL, Choice, History
from hyperpruning.search.ledger import Ledger, RunFolderError, locked, read
from hyperpruning.search.plan import Plan
from hyperpruning.search.references import FrozenDense
from hyperpruning.search.worker import Job, narrowed, verified_weights
from hyperpruning.settings import did_you_mean
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.training.pruning import cost_of, prunable_weights
from hyperpruning.training.task import description_of, row_groups_of


def plan_of(experiment: Experiment | Plan, folder: Path | None = None) -> Plan:
    """The plan of an experiment; a dense network that it names is read, and times that it needs are measured.

    Args:
        experiment: of a search.
        folder: its run folder, whose ledger has the measured times once it has begun; None: a search that has not.

    Raises:
        ValueError: it is neither, or the file is no model file, or its network has another vocabulary than the text.
    """
    if not isinstance(experiment, Experiment | Plan):
        raise ValueError(
            f"experiment must be an Experiment or a Plan, got {experiment!r}. Read a file by "
            "hyperpruning.experiment.read_experiment(path)."
        )
    plan = with_step_times(experiment.plan() if isinstance(experiment, Experiment) else experiment, folder)
    if not isinstance(plan.dense, Path) or plan.dense_task is None:
        return plan
    weights, description = load_weights(plan.dense)
    found, network = replace(plan, dense=weights), plan.dense_task.network(plan.train.seed)
    assert isinstance(found.dense, FrozenDense)
    found.dense.load_into(network)
    if description.get("sha256", expected := weights_sha256(network.state_dict())) != expected:
        raise ModelFileError(
            f"The weights of a model file must have the SHA-256 in its description, got other weights in {plan.dense}. "
            "Export it again."
        )
    ours = description_of(plan.dense_task, network)
    for name in ("vocabulary", "classes"):  # of equal number, they could still be others
        if description.get(name, ours.get(name)) != ours.get(name):
            raise ValueError(
                f"The dense network must have the {name} of the data, got others in {plan.dense}. Give the data "
                "that it was trained on, or leave [dense] file out."
            )
    return found


def export(
    folder: Path | str,
    experiment: Experiment | Plan | None = None,
    *,
    criterion: str | None = None,
    candidate: str | None = None,
    out: Path | str | None = None,
    precision: str = "exact",
    plain: bool = False,
) -> Path:
    """Write a network of a search as a model folder or a model file, from its checkpoint.

    Without `out` it becomes ``winner.safetensors``: the ledger records the choice, and the report is written again.

    Args:
        folder: the run folder.
        experiment: of the search; None reads the ``experiment.toml`` in the run folder.
        criterion: export the winner by this criterion.
        candidate: export this candidate, which must be trained to the end; with `out` also "dense" or "small". Without
            criterion and candidate it is the winner of the search.
        out: the model folder to write (compact weights and a card, see `load`), or a file ``*.safetensors``.
        precision: of the weights in a model folder: "exact", "fp16" or "int8".
        plain: write a plain state_dict in safetensors: the file alone, or one more file in the model folder.

    Returns:
        the path of what was written.

    Raises:
        ValueError: there is no such network, it is not trained to the end, or `precision` or `plain` do not fit `out`.
        RunFolderError: the folder is in use, belongs to another search, or has no ``experiment.toml``.
    """
    folder = Path(folder)
    _check_form(out, precision, plain)
    plan, history = read_search(folder, experiment)
    name = _chosen(plan, history, criterion, candidate, dense=out is not None)
    with locked(folder):
        network, *model = _model(plan, history, folder, name)
        if out is not None:
            out = Path(out)
            if not is_file_name(out):
                groups = row_groups_of(job_of(plan, folder, history, name, 0).task, network)
                card = model_card(read_run(folder), name, network, groups) | {"costs": asdict(costs(network))}
                save_folder(out, model[0], model[1] | card, precision=precision)
            elif not plain:
                save_model(out, *model)
            if plain:
                save_plain(out if is_file_name(out) else out / PLAIN, network.state_dict())
            return out
        if name != winner(plan, history):
            Ledger(folder).append(Choice(name, criterion))
        save_model(folder / WINNER, *model)
    write_report(folder)
    return folder / WINNER


def network_of(
    folder: Path | str,
    experiment: Experiment | Plan | None = None,
    *,
    criterion: str | None = None,
    candidate: str | None = None,
) -> nn.Module:
    """A trained network of a search, or of a model folder or file, in evaluation mode.

    Args:
        folder: the run folder, a model folder, or a model file.
        experiment, criterion, candidate: as of `export`.

    Raises:
        ValueError: as `export`; `criterion` or `candidate` is given for a model folder; or `Decoder` does not know the
            network of your own task.
    """
    folder = Path(folder)
    if is_model_folder(folder) or is_file_name(folder):
        if criterion is not None or candidate is not None:
            raise ValueError(
                f"criterion and candidate must be left out for a model, got {criterion or candidate} for {folder}. "
                "Give the run folder."
            )
        return load(folder)
    plan, history = read_search(folder, experiment)
    name = _chosen(plan, history, criterion, candidate, dense=True)
    network: nn.Module = _model(plan, history, folder, name)[0].eval()
    try:
        network_parts(network)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return network


def read_search(folder: Path, experiment: Experiment | Plan | None = None) -> tuple[Plan, History]:
    """The plan and the ledger of a run folder.

    Args:
        folder: the run folder.
        experiment: as of `export`.

    Raises:
        RunFolderError: the folder belongs to another search, or has no ``experiment.toml``.
    """
    if experiment is None:
        if not (folder / EXPERIMENT).is_file():
            read(folder)
            raise RunFolderError(
                f"A run folder must have an {EXPERIMENT} to load its networks, got {folder} without one. Call "
                "hp.export with the plan of the search."
            )
        experiment = read_experiment(folder / EXPERIMENT)
    plan, history = plan_of(experiment, folder), read(folder)
    check_run_folder(plan, folder)
    return plan, history


def write_models(plan: Plan, history: History, folder: Path) -> None:
    """Write the winner and the dense networks of a finished search, and what its networks cost, into its run folder.

    Args:
        plan: of the search.
        history: the content of its ledger.
        folder: the run folder.

    Raises:
        ValueError: weights differ from what the ledger says of them.
    """
    for name in (winner(plan, history), DENSE, SMALL):
        if name is not None and name in history.finals:
            save_model(folder / file_of(name), *_model(plan, history, folder, name)[1:])
    record_costs(plan, history, folder)


def is_file_name(out: Path) -> bool:
    """Whether a model file has this name; any other name is that of a model folder."""
    return out.suffix == ".safetensors"


def _check_form(out: Path | str | None, precision: str, plain: bool) -> None:
    if out is None and plain:
        raise ValueError("plain must be left out without a path to write, got True. Give out (--out).")
    check_precision(precision)
    if precision != "exact" and (out is None or is_file_name(Path(out))):
        raise ValueError(
            f"precision must be exact unless a model folder is written, got {precision!r}. Give a folder as out."
        )


def _chosen(plan: Plan, history: History, criterion: str | None, candidate: str | None, *, dense: bool) -> str:
    """The network to export."""
    if criterion is not None and candidate is not None:
        raise ValueError(
            f"criterion must be left out with a candidate, got {criterion} and {candidate}. Give one of them."
        )
    if criterion is not None and criterion not in plan.criteria:
        raise ValueError(
            f"criterion must be one of {', '.join(plan.criteria)}, got {criterion!r}."
            f"{did_you_mean(criterion, plan.criteria)}"
        )
    known = [*history.candidates, *((DENSE, SMALL) if dense else ())]
    if candidate is not None and candidate not in known:
        raise ValueError(
            f"candidate must be one of {', '.join(known)}, got {candidate!r}.{did_you_mean(candidate, known)}"
        )
    name = candidate or (winner(plan, history) if criterion is None else history.winners.get(criterion))
    if name is None:
        raise ValueError("A search must be finished to export its winner, got one that is not. Resume it.")
    if name not in history.finals:
        ended = ", ".join(one for one in history.candidates if one in history.finals) or "none yet"
        raise ValueError(
            f"A network must be trained to the end to be exported, got {name}, which was trained to epoch "
            f"{max(0, history.trained(name))} of {plan.train.epochs}. Choose one of those that were ({ended}), "
            "or search with train_all = true."
        )
    return name


def _model(
    plan: Plan, history: History, folder: Path, name: str
) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """A network, its weights, tied ones once, and the description of its model file."""
    job, final = narrowed(job_of(plan, folder, history, name, plan.train.epochs)), history.finals[name]
    network, weights = job.task.network(plan.train.seed), verified_weights(job, final.sha256)
    once = {key for key, _ in chain(network.named_parameters(), network.named_buffers())}
    _check_nonzeros(job, network, weights, final.active)
    description = description_of(job.task, network) | {
        "network": name,
        "method": None if job.method is None else to_config(job.method),
        "sparsity": 1 - final.active / prunable_weights(job.task, network, plan.train),
        **{key: getattr(final, key) for key in ("active", "best_epoch", "valid_loss", "test_loss", "sha256")},
    }
    network.load_state_dict(weights)
    return network, {key: value for key, value in weights.items() if key in once}, description


def _check_nonzeros(job: Job, network: nn.Module, weights: Mapping[str, Tensor], active: int) -> None:
    """Check that no more weights differ from zero than the ledger calls active; an active weight may be zero."""
    cost = cost_of(job.task, network, job.train)
    prunable = [name for name, weight in network.named_parameters() if cost(name, weight)]
    nonzeros = sum(int(weights[name].count_nonzero()) for name in prunable)
    if nonzeros > active:
        raise ValueError(
            f"The weights of {job.name} must have at most the {active:,} nonzeros that are active in the ledger, got "
            f"{nonzeros:,}. See that evaluate and recurrence of the task leave the weights as they are (check_task)."
        )
