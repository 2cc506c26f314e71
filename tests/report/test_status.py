from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from invented import epoch_record, identity
from rich.console import Console

from hyperpruning.files import json_check
from hyperpruning.report.status import Status, status, status_table
from hyperpruning.search.history import Failure, Header
from hyperpruning.search.ledger import Ledger, RunFolderError
from hyperpruning.training.record import Metric

Invent = Callable[..., Path]


def printed(found: Status, width: int = 100, **options: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(status_table(found, **options))
    return capture.get()


def write_sidecar(folder: Path, name: str, until: int) -> None:
    """The checkpoint of a network that is ahead of the ledger."""
    records = [asdict(epoch_record(int(name[1:]) - 1, epoch, identity())) for epoch in range(until + 1)]
    sidecar = {"epoch": until, "network": name, "identity": "", "sha256": "", "size": 0, "records": records}
    (folder / "networks" / name).mkdir(parents=True, exist_ok=True)
    (folder / "networks" / name / f"epoch-{until:04d}.json").write_text(
        json.dumps(sidecar | {"check": json_check(sidecar)})
    )


def test_stages(invent: Invent) -> None:
    header = status(invent("a", until="header"))
    assert header.stage == "batch 1 of 2, to epoch 2"
    assert (header.done, header.seconds, header.left(2), header.finished) == (0, None, None, False)
    assert status(invent("b", until="pool")).stage == "round 1 of 2, at epoch 2"
    assert status(invent("c", until="rounds")).stage == "training the finalists to epoch 10"
    done = status(invent("d"))
    assert (done.stage, done.finished) == ("finished", True)
    assert done.done == done.planned


def test_the_plan_is_exact_once_the_rounds_are_held(invent: Invent) -> None:
    assert status(invent("a", until="rounds")).planned == status(invent("b")).done
    assert status(invent("c", until="pool", train_all=True)).planned == 13 * 10
    assert status(invent("d", train_all=True)).done == 130


def test_the_plan_counts_what_diverged_as_far_as_it_came(invent: Invent) -> None:
    found = status(invent(train_all=True, failing=("c03",)))
    assert found.done == 12 * 10 + 1
    assert {network.name: network.outcomes["ls"] for network in found.networks[1:]}["c03"] == "failed"


def test_the_plan_is_an_estimate_between_agreement_and_disagreement(invent: Invent) -> None:
    planned = status(invent(until="pool")).planned
    assert 10 + 12 * 2 + 6 * 1 + 3 * 7 <= planned <= 10 + 12 * 2 + 12 * 1 + 9 * 7


def test_verdicts_of_every_judge(finished: Path) -> None:
    networks = {network.name: network for network in status(finished).networks}
    assert networks["dense"].outcomes == {}
    for judge in ("ls", "loss", "rank_sum"):
        outcomes = [network.outcomes[judge] for name, network in networks.items() if name != "dense"]
        assert outcomes.count("chosen") == 1
        assert set(outcomes) == {"chosen", "out"}


def test_networks_in_training_are_seen_ahead_of_the_ledger(invent: Invent) -> None:
    folder = invent(until="rounds")
    before = status(folder)
    write_sidecar(folder, "c01", 5)
    after = status(folder)
    reached = {network.name: network.epochs for network in before.networks}["c01"]
    assert after.done == before.done + 5 - reached
    assert after.seconds == pytest.approx(1.5)
    assert after.left(workers=2) == pytest.approx((after.planned - after.done) * 1.5 / 2)
    write_sidecar(folder, "c01", 6)
    assert status(folder).done == after.done + 1


def test_the_checkpoints_of_two_networks_exchanged_are_those_of_none(invent: Invent) -> None:
    folder = invent(until="rounds")
    before = {network.name: (network.epochs, network.value) for network in status(folder).networks}
    write_sidecar(folder, "c01", 5)
    write_sidecar(folder, "c02", 6)
    one, two, aside = (folder / "networks" / name for name in ("c01", "c02", "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert {network.name: (network.epochs, network.value) for network in status(folder).networks} == before


def test_what_the_ledger_says_newly_is_seen(invent: Invent) -> None:
    folder = invent(until="rounds")
    assert status(folder).networks[1].outcomes["ls"] in ("in", "out")
    Ledger(folder).append(Failure("c01", "nan"))
    assert "failed" in status(folder).networks[1].outcomes.values()


def test_the_table_says_everything(invent: Invent) -> None:
    folder = invent(until="rounds")
    write_sidecar(folder, "c01", 4)
    text = printed(status(folder), workers=2)
    for part in (
        "training the finalists",
        "c12",
        "uniform, magnitude, random",
        "validation",
        "distance",
        "rank sum",
        "left",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
    assert "4:09:09 left" in printed(replace(status(folder), planned=10_000), workers=1)


def test_a_wide_table_has_a_column_for_each_criterion_and_a_narrow_one_names_those_that_kept(invent: Invent) -> None:
    criteria = ["ls", "loss", "rank_sum", "conditional_ls", "extrapolated_loss"]
    folder = invent(until="rounds", criteria=criteria)
    assert "kept by" not in printed(status(folder), width=110)
    for width in (80, 60):
        text = printed(status(folder), width=width)
        assert "kept by" in text
        assert "extrapolated loss" in text
        assert max(map(len, text.splitlines())) <= width
    done = printed(status(invent("done", criteria=criteria)), width=60)
    assert "winner by" in done
    failed = printed(status(invent("failed", criteria=criteria, failing=("c03",))), width=60)
    assert re.search(r"c03 .* failed", failed)


@pytest.mark.parametrize("width", [110, 80, 60])
@pytest.mark.parametrize("until", ["header", "pool", "rounds", "all"])
def test_no_line_is_longer_than_the_terminal_and_no_number_is_cut(invent: Invent, until: str, width: int) -> None:
    text = printed(status(invent(until=until)), width=width, workers=2)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"\d…|\d\.$", text, re.MULTILINE)
    assert "perplexity" in text
    assert len(text.splitlines()) <= 20  # one line for each network


def test_a_low_window_folds_those_that_are_out(finished: Path) -> None:
    text = printed(status(finished), rows=4)
    assert "and 8 more" in text
    assert "dense" in text
    assert text.count("chosen") == 3


@pytest.mark.parametrize("foreign", [{}, {"criteria": "ls"}, {"n_candidates": 3, "space": []}])
def test_the_first_line_of_another_program_is_a_sentence(tmp_path: Path, foreign: dict[str, object]) -> None:
    Ledger(tmp_path).append(Header(foreign, {}, Metric()))
    with pytest.raises(RunFolderError, match=r"\.$"):
        status(tmp_path)


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        status(tmp_path)
