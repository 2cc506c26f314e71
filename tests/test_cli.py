"""The command line as a person meets it: real processes, exit codes, and one sentence for everything that is wrong."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from hyperpruning import api
from hyperpruning.cli import app, words_of
from hyperpruning.cli_errors import Terminated, guarded, interrupt
from hyperpruning.data.corpus import PUBLISHED_CORPORA, SPLITS
from hyperpruning.data.download import URLS
from hyperpruning.deploy.model_file import save_model
from hyperpruning.files import write_atomic
from hyperpruning.search.ledger import LEDGER
from hyperpruning.tasks.language_modelling import LanguageModelling
from small import small, write_text


def run(*words: object) -> tuple[int, str]:
    """A command in this process: exit code and all that it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("", ""),
        ("resume runs/mine --ray", "resume runs/mine --ray any"),
        ("search a.toml --ray --gpus 1", "search a.toml --ray any --gpus 1"),
        ("search --ray host:1 a.toml", "search --ray host:1 a.toml"),
        ("search a.toml --ray=host:1", "search a.toml --ray=host:1"),
    ],
)
def test_the_address_of_ray_may_be_left_out(given, becomes):
    assert words_of(given.split()) == becomes.split()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "experiment.toml"
    path.write_text(small(write_text(folder)).to_toml())
    return path


@pytest.fixture(scope="module")
def searched(experiment) -> tuple[Path, str]:
    """A finished search, and what it said."""
    folder = experiment.parent / "run"
    code, said = run("search", experiment, "--out", folder, "--workers", 1)
    assert code == 0, said
    return folder, said


@pytest.fixture
def finished(searched, tmp_path) -> Path:
    return Path(shutil.copytree(searched[0], tmp_path / "run"))


def test_a_search_ends_with_the_table_the_verdict_and_the_report(searched):
    _, said = searched
    for part in (
        "c01 is",
        "epoch 4: valid perplexity",
        "LS distance keeps",
        "by LS distance",
        "The winner by averaged loss is c0",
        "report.html",
    ):
        assert part in said, part


def test_status_report_resume_and_spectrum_work_on_what_it_leaves(finished, tmp_path):
    assert "finished" in run("status", finished)[1]
    assert "report.html" in run("report", finished)[1]
    before = (finished / LEDGER).read_bytes()
    assert run("resume", finished, "--workers", 1)[0] == 0
    assert (finished / LEDGER).read_bytes() == before
    code, said = run(
        "spectrum", finished, "--against", finished / "dense.safetensors", "--steps", 20, "--warmup", 5,
        "--sequences", 2, "--out", tmp_path / "picture",
    )  # fmt: skip
    assert code == 0, said
    assert "Distance (l2)" in said
    assert (tmp_path / "picture.npz").exists()
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("name", ["x[/nope]", "a[b]c", ":smile:", r"$\frac{$"])
def test_names_of_folders_are_no_markup(finished, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    folder = finished.rename(tmp_path / name)
    for words in (["report"], ["evaluate"], ["spectrum", "--out", tmp_path / "picture"]):
        code, said = run(words[0], folder, *words[1:])
        assert code == 0, said
        assert name in said
    assert run("status", folder)[0] == 0


def test_evaluate_says_the_perplexity_and_how_it_was_measured(finished, text):
    with safe_open(finished / "winner.safetensors", framework="pt") as file:
        known = json.loads(next(iter(file.metadata().values())))["test_loss"]
    characters = len((text / "test.txt").read_text())
    code, said = run("evaluate", finished)
    assert code == 0, said
    assert f"test perplexity {math.exp(known):.3f}, {known:.5f} nats per token, {characters - 1:,} tokens" in said
    assert "The text is read in one piece, and every token except the first is predicted." in said
    code, columns = run("evaluate", finished / "dense.safetensors", "--split", "valid", "--batch", 7)
    assert code == 0, columns
    assert "dense.safetensors: valid perplexity" in columns
    assert "is read in 7 parallel streams" in columns
    code, dynamic = run("evaluate", finished, "--dynamic", "--statistics", 0.5)
    assert code == 0, dynamic
    assert "gradients of the first 0.5 of the training text" in dynamic
    assert f"{characters - 1:,} tokens" in dynamic
    assert "pruned weights stay zero." in dynamic
    assert dynamic.split(",")[0] != said.split(",")[0]


def test_a_model_is_evaluated_on_what_it_was_trained_on(finished, text, tmp_path):
    alone = shutil.copy(finished / "winner.safetensors", tmp_path / "alone.safetensors")
    for words, says in (
        ([finished, "--split", "train"], "split must be valid or test"),
        ([finished, "--batch", 2, "--dynamic"], "batch must be 1 with dynamic evaluation, got 2"),
        ([finished, "--batch", 5000], "test text is too short"),
        ([finished, "--fraction", 0], "must be above 0 and at most 1"),
        ([finished, "--device", "abacus"], "got 'abacus'."),
        ([alone], "A text must be given"),
    ):
        code, said = run("evaluate", *words)
        assert code == 2
        assert says in said
    assert run("evaluate", alone, "--data", text)[1].split(",")[0] == (
        run("evaluate", finished)[1].split(",")[0].replace(str(finished), str(alone))
    )
    code, part = run("evaluate", alone, "--data", text, "--fraction", 0.5)
    assert code == 0
    assert "The first 0.5 of the text is read in one piece" in part
    assert f" {round(len((text / 'test.txt').read_text()) / 2) - 1:,} tokens" in part
    (text / "train.txt").write_text("x" + (text / "train.txt").read_text())
    code, said = run("evaluate", alone, "--data", text)
    assert code == 2
    assert "got another one in" in said


def test_a_text_that_changed_since_the_training_is_read_only_as_data(experiment, finished, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(experiment.parent, folder, ignore=shutil.ignore_patterns("run"))
    settings = finished / "experiment.toml"  # it records where the text is
    settings.write_text(settings.read_text().replace(str(experiment.parent), str(folder)))
    assert run("evaluate", finished)[0] == 0
    test = (folder / "test.txt").read_text()
    (folder / "test.txt").write_text(test[: len(test) // 2] * 2)
    for command in ("evaluate", "spectrum"):
        code, said = run(command, finished)
        assert code == 2
        assert f"Without --data the text must be the one of the training, got a changed one in {folder} for" in said
    assert run("evaluate", finished, "--data", folder)[0] == 0
    assert run("evaluate", finished, "--fraction", 0.5)[0] == 0


def test_a_search_is_not_resumed_on_a_text_whose_splits_end_elsewhere(experiment, finished, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(experiment.parent, folder, ignore=shutil.ignore_patterns("run"))
    settings = finished / "experiment.toml"
    settings.write_text(settings.read_text().replace(str(experiment.parent), str(folder)))
    lines = (finished / LEDGER).read_bytes().splitlines(keepends=True)
    (finished / LEDGER).write_bytes(b"".join(lines[:20]))
    train, valid = ((folder / f"{split}.txt").read_text() for split in ("train", "valid"))
    (folder / "train.txt").write_text(train[:-800])
    (folder / "valid.txt").write_text(train[-800:] + valid)
    code, said = run("resume", finished, "--workers", 1)
    assert code == 2
    assert "A run folder must belong to one search" in said
    assert "task.text_sha256 is " in said
    assert (finished / LEDGER).read_bytes() == b"".join(lines[:20])


def test_evaluation_and_spectrum_take_place_on_the_device_in_float32(finished, monkeypatch):
    seen = []

    def looked(self, network, *split):
        tf32 = torch.backends.cudnn.allow_tf32
        seen.append((network.encoder.weight.device.type, (torch.get_float32_matmul_precision(), tf32)))
        raise ValueError("that is enough")

    monkeypatch.setattr("hyperpruning.api.device_of", lambda name: torch.device("meta" if name == "auto" else name))
    monkeypatch.setattr(LanguageModelling, "evaluate", looked)
    monkeypatch.setattr(LanguageModelling, "recurrence", looked)
    monkeypatch.setattr("hyperpruning.api.gradient_scale", lambda network, *_: looked(None, network))
    for words in (["evaluate"], ["evaluate", "--dynamic"], ["spectrum"]):
        assert run(words[0], finished, *words[1:], "--device", "cpu")[0] == 2
        assert run(words[0], finished, *words[1:])[0] == 2
    assert [device for device, _ in seen] == ["cpu", "meta"] * 3
    assert {precision for _, precision in seen[:4]} == {("highest", False)}


def test_a_model_of_a_part_of_a_text_remembers_the_part(text, tmp_path):
    task = LanguageModelling(folder=text, unit="word", fraction=0.1, hidden=6)
    with (text / "test.txt").open("a") as file:
        file.write("another word\n")  # the whole has another vocabulary
    network = task.network(0)
    save_model(tmp_path / "m.safetensors", dict(network.named_parameters()), task.describe(network))
    assert run("evaluate", tmp_path / "m.safetensors", "--data", text)[0] == 0
    assert run("spectrum", tmp_path / "m.safetensors", "--data", text, "--fraction", 1)[0] == 2


def test_a_model_with_nan_has_no_perplexity(text, tmp_path):
    task = LanguageModelling(folder=text, hidden=6)
    network = task.network(0)
    torch.nn.init.constant_(network.decoder.bias, math.nan)
    save_model(tmp_path / "m.safetensors", dict(network.named_parameters()), task.describe(network))
    code, said = run("evaluate", tmp_path / "m.safetensors", "--data", text)
    assert code == 2
    assert "The loss of a model must be finite, got nan" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unit": None}, "A model file must say what a token is, got no unit in"),
        ({"unit": "syllable"}, "unit must be one of word, character, got 'syllable'."),
        ({"fraction": "x"}, "fraction must be a number, got 'x'."),
        ({"vocabulary": None}, "Load its weights with safetensors.torch.load_file."),
        ({"corpus": ["x"], "sha256": 1}, "must have the SHA-256 in its description"),
    ],
)
def test_a_model_file_with_another_description_is_a_sentence(text, tmp_path, changes, says):
    task = LanguageModelling(folder=text, hidden=6)
    network = task.network(0)
    description = {key: value for key, value in (task.describe(network) | changes).items() if value is not None}
    save_model(tmp_path / "m.safetensors", dict(network.named_parameters()), description)
    for command in ("evaluate", "spectrum"):
        code, said = run(command, tmp_path / "m.safetensors", "--data", text)
        assert code == 2
        assert says in said


@pytest.mark.parametrize("command", ["search", "demo"])
def test_an_empty_run_folder_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, said = run(command, "--out", "", "--workers", 1)
    assert code == 2
    assert "A path must have at least one character" in said
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_still_prints_its_tables(finished):
    (finished / "report.html").unlink()
    (finished / "report.html").mkdir()
    code, said = run("report", finished)
    assert code == 2
    assert "by LS distance" in said
    assert f"{finished / 'report.html'} cannot be read or written" in said


def test_a_file_that_may_not_be_read_or_written_is_named(finished, tmp_path, monkeypatch):
    def denied(self, *words, **options):
        if self.name in ("winner.safetensors", f".report.html.{os.getpid()}"):
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *words, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", denied)
    for words in (["evaluate", finished], ["spectrum", finished], ["report", finished]):
        file = finished / ("report.html" if words[0] == "report" else "winner.safetensors")
        code, said = run(*words)
        assert code == 2
        assert f"{file} cannot be read or written (Permission denied). Give another path." in said
        assert ("by LS distance" in said) == (words[0] == "report")


def test_paths_that_are_no_folders_are_a_sentence(experiment, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    code, said = run("search", experiment, "--out", tmp_path / "dangling", "--workers", 1)
    assert code == 2
    assert "A run folder must be a folder, got" in said
    (tmp_path / "null.toml").write_text('[data]\nfolder = "a\\u0000b"\n')
    code, said = run("search", tmp_path / "null.toml", "--out", tmp_path / "run", "--workers", 1)
    assert code == 2
    assert "A path must not have a null character." in said


def test_fetch_says_the_licence_and_what_came(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    for split in SPLITS:
        (tmp_path / "there" / f"{split}.txt").write_text("a b\n")
    monkeypatch.setitem(PUBLISHED_CORPORA, "ptb", dict.fromkeys((*SPLITS, "vocabulary"), (3, None)))
    place = (tmp_path / "there").as_uri() + "/{split}.txt"
    monkeypatch.setitem(URLS, "ptb", (place,))
    code, said = run("fetch", "ptb", tmp_path / "ptb")
    assert code == 0, said
    assert "licensed by the Linguistic Data Consortium" in said
    assert "holds ptb, as published: 3 + 3 + 3 tokens, 3 words." in said
    monkeypatch.setitem(URLS, "ptb", ("http://127.0.0.1:9/",))
    code, said = run("fetch", "ptb", tmp_path / "offline")
    assert code == 2
    assert "http://127.0.0.1:9/: " in said
    assert "as train.txt by hand." in said
    assert run("fetch", "wikitext-103", tmp_path / "other")[0] == 2


def test_a_dry_run_writes_nothing(experiment, tmp_path):
    code, said = run("search", experiment, "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    assert "3 more" not in said
    assert "and 2 more" in said
    assert "An epoch takes about" in said
    assert not (tmp_path / "run").exists()


def spoiled(text: Path, how: str) -> Path:
    if how == "missing split":
        (text / "valid.txt").unlink()
    elif how == "empty split":
        (text / "valid.txt").write_text("")
    elif how == "not UTF-8":
        (text / "train.txt").write_bytes(b"\xff\xfe")
    elif how == "missing folder":
        return text / "nowhere"
    return text


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing folder", "The data folder must exist"),
        ("missing split", "no valid split"),
        ("empty split", "must not be empty"),
        ("not UTF-8", "must be UTF-8"),
    ],
)
def test_data_that_cannot_be_used(text, tmp_path, how, says):
    code, said = run("search", "--data", spoiled(text, how), "--out", tmp_path / "run", "--workers", 1)
    assert code == 2
    assert says in said


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[pruning]\nsparsity = 1.0", "pruning.sparsity must be at least 0 and below 1, got 1.0."),
        ("[pruning]\nsparsity = -0.1", "pruning.sparsity must be at least 0 and below 1, got -0.1."),
        ("[pruning]\nsparsity = 0.99999", "leave every tensor at least one active weight"),
        ('[space]\ndrop = ["magnitud"]', "Did you mean 'magnitude'?"),
        ('[search]\nsampler = "tpee"', "Did you mean 'tpe'?"),
        ("[serach]\npool = 3", "Did you mean 'search'?"),
        ("[search]\nrungs = [1, 2]\nkeep = [3, 0]", "keep must be at least 1, got (3, 0)."),
        ("[search", "which is not valid"),
    ],
)
def test_experiments_that_cannot_be_run(tmp_path, toml, says):
    path = tmp_path / "experiment.toml"
    path.write_text(toml)
    code, said = run("search", path, "--out", tmp_path / "run", "--workers", 1)
    assert code == 2
    assert says in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / LEDGER).exists()


def test_a_search_of_nothing_says_what_it_wants(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run("search")
    assert code == 2
    assert said == (
        "A search must have an experiment.toml, --data DIR or --preset NAME, got none. Give one of them: `hyperprune "
        "init` writes an experiment.toml, and `hyperprune demo` needs none of them."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.pt", b"PK\x03\x04\x00\x00\xff\x80", ", which is no text. Write one with `hyperprune init`; a trained"),
        (
            "model.safetensors",
            (64).to_bytes(8, "little") + b"{}",
            ", which is no text. Write one with `hyperprune init`",
        ),
        ("empty.toml", b"# nothing", "An experiment must have at least one setting, got"),
    ],
)
def test_a_search_of_a_file_that_is_no_experiment_says_what_it_wants(tmp_path, monkeypatch, name, content, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    code, said = run("search", name)
    assert code == 2
    assert says in said
    assert name in said
    assert "`hyperprune init`" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_folder_of_another_experiment_shows_the_difference(finished, experiment):
    before = (finished / LEDGER).read_bytes()
    code, said = run("search", experiment, "--out", finished, "--workers", 1, "--sparsity", 0.7)
    assert code == 2
    assert "sparsity is 0.6 in the ledger and 0.7 now" in said
    assert (finished / LEDGER).read_bytes() == before


def test_a_run_folder_in_use(finished, experiment):
    from hyperpruning.search.ledger import locked

    with locked(finished):
        code, said = run("resume", finished, "--workers", 1)
    assert code == 2
    assert "is in use" in said


@pytest.fixture
def read_only(finished, monkeypatch):
    """A finished search in a folder that cannot be written."""

    def write(path, content):
        if path.is_relative_to(finished):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        write_atomic(path, content)

    for path in (*finished.rglob("*"), finished):
        path.chmod(path.stat().st_mode & ~0o222)  # root can write all the same
    monkeypatch.setattr("hyperpruning.report.page.write_atomic", write)
    yield finished
    for path in (finished, *finished.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def test_status_and_report_work_in_a_folder_that_is_read_only(read_only, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (read_only, *read_only.rglob("*"))}
    code, said = run("status", read_only)
    assert (code, "finished" in said) == (0, True)
    code, said = run("report", read_only, "--out", tmp_path / "page.html")
    assert code == 0
    assert "by LS distance" in said
    assert said.endswith(f"Report: {tmp_path / 'page.html'}")
    assert "</html>" in (tmp_path / "page.html").read_text()
    code, said = run("report", read_only)
    assert code == 2
    assert "by LS distance" in said
    assert said.endswith("report.html cannot be read or written (Read-only file system). Give another path.")
    assert {path: path.stat().st_mtime_ns for path in (read_only, *read_only.rglob("*"))} == before


@pytest.mark.parametrize("width", [80, 60])
def test_what_commands_print_fits_a_narrow_terminal(finished, monkeypatch, width):
    monkeypatch.setattr("hyperpruning.cli.out.width", width)
    runner = CliRunner()
    for command in ("status", "report"):
        result = runner.invoke(app, [command, str(finished)])
        assert result.exit_code == 0
        lines = [line for line in result.output.splitlines() if str(finished) not in line]  # a path is never folded
        assert max(map(len, lines)) <= width
        assert not re.search(r"\d\.?…", result.output)
        assert "…" not in result.output or command == "status"  # a method is shortened between its parts


def test_the_width_is_what_the_environment_says_also_in_a_pipe(finished):
    command = [sys.executable, "-m", "hyperpruning", "status", str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "60"})
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "kept by" in done.stdout


@pytest.mark.parametrize("command", ["status", "resume", "report"])
def test_a_folder_that_is_no_run_folder(tmp_path, command):
    code, said = run(command, tmp_path)
    assert code == 2
    assert LEDGER in said


def test_a_search_that_was_killed_before_its_first_line(experiment, finished, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(experiment, folder / "experiment.toml")
    for command in ("status", "report"):
        code, said = run(command, folder)
        assert code == 2
        assert f"Nothing has been recorded in {folder} yet." in said
    assert run("resume", folder, "--workers", 1)[0] == 0
    assert (folder / LEDGER).read_bytes() == (finished / LEDGER).read_bytes()


@pytest.mark.parametrize("lr", [1e6, 1e30])  # which of inf and nan comes first depends on the processor
def test_a_dense_network_that_diverges_is_a_sentence_in_every_command(experiment, tmp_path, lr):
    path, folder = tmp_path / "experiment.toml", tmp_path / "run"
    text = experiment.read_text().replace("lr = 5.0", f"lr = {lr:.1f}").replace("norm = 0.25", "norm = 1e30")
    path.write_text(text)
    for words in (["search", path, "--out", folder], ["resume", folder]):
        code, said = run(*words, "--workers", 1)
        assert code == 2
        assert re.search(r"The (validation \w+|\w+ loss|loss) must be finite, got (inf \(loss |nan)", said)
        assert said.endswith(f"Lower the learning rate ({lr:g}).")
    for command in ("status", "report"):
        code, said = run(command, folder)
        assert code == 0, said


def test_a_model_file_that_is_a_pickle(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    code, said = run("spectrum", tmp_path / "model.pt")
    assert code == 2
    assert "is a pickle" in said


def test_no_space_left_and_then_some(experiment, finished, tmp_path, monkeypatch):
    folder = tmp_path / "full"
    saved = []

    def full(descriptor):
        saved.append(descriptor)
        if len(saved) > 30:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, said = run("search", experiment, "--out", folder, "--workers", 1)
    assert code == 2
    assert f"hyperprune resume {folder}" in said
    assert run("resume", folder, "--workers", 1)[0] == 0
    assert (folder / LEDGER).read_bytes() == (finished / LEDGER).read_bytes()


def test_an_unexpected_error_is_a_sentence_with_a_file(monkeypatch, finished):
    def broken(*words, **options):
        raise KeyError("oops")

    monkeypatch.setattr("hyperpruning.cli.write_report", broken)
    code, said = run("report", finished)
    assert code == 1
    assert "This is a bug in hyperprune (KeyError" in said


def test_a_network_that_does_not_fit_is_a_sentence(monkeypatch, tmp_path):
    def full(*words, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("hyperpruning.cli.evaluate_model", full)
    code, said = run("evaluate", tmp_path)
    assert code == 2
    assert "Out of memory. Make the network smaller" in said


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 2)])
def test_an_interrupted_search_says_how_to_go_on(experiment, finished, tmp_path, number, code, workers):
    folder = tmp_path / "interrupted"
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperpruning", "search", experiment, "--out", folder, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("networks/c0*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # a second one does not interrupt the handling of the first
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"hyperprune resume {folder}" in said
    assert "Traceback" not in said
    assert run("resume", folder, "--workers", 1)[0] == 0
    assert (folder / LEDGER).read_bytes() == (finished / LEDGER).read_bytes()


@pytest.mark.parametrize("seconds", [0.8, 1.5])
def test_an_interruption_while_torch_is_imported_is_no_traceback(seconds):
    process = subprocess.Popen([sys.executable, "-m", "hyperpruning", "--help"], stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "Traceback" not in said
    assert process.returncode in (0, 130, -signal.SIGINT)  # the last before Python has set itself up


def test_dynamic_evaluation_has_the_constants_published_for_the_text(monkeypatch):
    for corpus, decay in (("wikitext-2", 0.02), ("ptb", 0.075), ("another", 0.075)):
        monkeypatch.setattr(api, "describe", lambda path, corpus=corpus: {"corpus": corpus})
        found = api.dynamic_evaluation(Path("model.safetensors"), statistics=0.5)
        assert (found.decay, found.fraction) == (decay, 0.5)


def test_a_closed_pipe_is_no_bug(capsys):
    @guarded
    def command():
        raise SystemExit(1)  # rich's, when the pipe is closed

    with pytest.raises(SystemExit):
        command()
    assert "bug" not in capsys.readouterr().err


def test_a_closed_pipe_ends_a_search_quietly(experiment, monkeypatch, tmp_path):
    def closed(*words, **options):
        raise SystemExit(1)

    monkeypatch.setattr("hyperpruning.cli.hyperprune", closed)
    assert run("search", experiment, "--out", tmp_path / "run", "--workers", 1) == (1, "")


def test_a_second_signal_leaves_the_first_the_time_to_give_its_advice(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("hyperpruning.cli_errors.time.monotonic", lambda: clock[0])
    for number, error in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        clock[0] += 10
        with pytest.raises(error):
            interrupt(number, None)
        clock[0] += 0.03
        assert interrupt(signal.SIGINT, None) is None


def test_the_version_and_examples_are_shown():
    assert run("--version") == (0, f"hyperprune {version('hyperpruning')}")
    assert "--install-completion" in run("--help")[1]
    for command in ("demo", "search", "init", "resume", "status", "report", "fetch", "evaluate", "spectrum"):
        assert f"Example: hyperprune {command}" in run(command, "--help")[1]
