"""The search with torch, numpy and optuna alone: machines that train often have little more."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import hyperpruning
from hyperpruning.search import driver
from hyperpruning.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
BARE = """
import importlib.abc, sys
from pathlib import Path

OTHERS = {"pydantic", "typer", "rich", "click", "safetensors", "matplotlib", "filelock", "tomlkit", "jinja2"}

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OTHERS:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Missing())
import torch
import hyperpruning as hp
from hyperpruning.search.driver import search

torch.set_num_threads(1)
text, out = map(Path, sys.argv[1:])
task = hp.LanguageModelling(
    folder=text, hidden=8, embedding=8, batch=8, bptt=20, eval_batch=4, probe_steps=14, probe_batch=2
)
plan = hp.Plan(
    task=task,
    dense_task=task,
    train=hp.TrainConfig(epochs=2, lr=5.0, updates_per_epoch=1),
    sparsity=0.6,
    space=hp.SearchSpace({"allocation": ("uniform", "er"), "drop_fraction": hp.FloatRange(0.4, 0.9, 0.1)}),
    n_candidates=3,
    rungs=(1,),
    keep=(1,),
    spectrum=hp.SpectrumConfig(warmup=4),
)
print(search(plan, out / "run", lock=False).winners)
import paper_scale  # which promises the same of itself

options = {"data": text, "state": out / "state", "scratch": out / "scratch", "seconds": 0, "n-candidates": 4}
paper_scale.main(["--small", *(str(one) for name in options for one in (f"--{name}", options[name]))])
assert not OTHERS & {name.split(".")[0] for name in sys.modules}
"""


def test_a_search_needs_torch_numpy_and_optuna_alone(text, tmp_path):
    paths = os.pathsep.join([str(Path(hyperpruning.__file__).parents[1]), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", BARE, text, tmp_path],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'ls': 'c0" in done.stdout
    assert "to be continued" in done.stdout


def test_a_source_tree_has_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(driver, "version", missing)
    plan = SimpleNamespace(train=TrainConfig(device="cpu"))
    assert driver._versions(plan)["hyperpruning"] == "source tree"
