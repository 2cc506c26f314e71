"""The direction of imports between the rooms of the house; design: a leaf knows no sibling, nobody looks up."""

import ast
from pathlib import Path

import pytest

import hyperpruning

ROOT = Path(hyperpruning.__file__).parent
LEAVES = ("data", "models", "sparsity", "lyapunov")
GROUND = ("kernels", "faults", "files", "settings", "tabulation")  # on which all may stand
# what each room may import of the others
MAY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*GROUND, *LEAVES), ()),
    "structured": ("models", "sparsity"),
    "training": ("sparsity",),
    "tasks": ("data", "models", "training"),
    "search": ("sparsity", "training", "lyapunov"),
    "report": ("lyapunov", "sparsity", "training", "search"),
    "deploy": ("models", "sparsity", "structured"),
    "experiment": ("lyapunov", "sparsity", "training", "tasks", "search"),
    "network_costs": ("sparsity", "training", "search", "report", "deploy"),
    "exports": ("sparsity", "training", "search", "report", "deploy", "experiment", "network_costs"),
    "testing": ("lyapunov", "sparsity", "training", "search"),
    "api": (*LEAVES, "training", "tasks", "search", "report", "deploy", "experiment", "exports"),
    "cli_errors": ("training", "search"),
    "cli_models": ("deploy", "cli_errors"),
    "cli": (
        "data",
        "lyapunov",
        "training",
        "search",
        "report",
        "deploy",
        "experiment",
        "exports",
        "network_costs",
        "api",
        "cli_errors",
        "cli_models",
    ),
    "__main__": ("cli",),
}
# third-party packages: the files (or rooms) that alone may import them
ONLY_IN = {
    "optuna": ("search/samplers.py", "search/mirror.py"),
    "tensorboard": ("report/watching.py",),
    "typer": ("cli.py", "cli_errors.py", "cli_models.py"),
    "matplotlib": ("report/drawing.py", "report/figures.py", "lyapunov/spectrum.py"),
    "pydantic": ("experiment.py",),
    "tomlkit": ("experiment.py",),
    "jinja2": ("report/page.py",),
    "markupsafe": ("report/page.py",),
    "safetensors": ("deploy/model_file.py",),
    "onnx": ("deploy/onnx_export.py",),
    "onnxruntime": ("deploy/onnx_export.py",),
    "filelock": ("search/ledger.py",),
    "distributed": ("search/executors.py",),
    "ray": ("search/executors.py",),
    "pandas": ("tabulation.py",),
}
# who asks what a search does next (docs: the search is one pure function)
CALLERS_OF_DECIDE = ("search/driver.py", "search/forecast.py", "search/replay.py", "report/run.py")


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem != "__init__"]


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_lies_below_it(path):
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("hyperpruning.")}
    assert rooms - {room(path)} <= {*MAY[room(path)], *GROUND}
    assert "hyperpruning" not in imported(path)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dependency_stays_in_its_place(path):
    packages, place = {name.split(".")[0] for name in imported(path)}, str(path.relative_to(ROOT))
    for package, places in ONLY_IN.items():
        assert package not in packages or place in places or room(path) in places
    if room(path) in GROUND + LEAVES:
        heavy = {"optuna", "pydantic", "typer", "rich", "matplotlib", "safetensors", "filelock"}
        assert not packages & heavy - {package for package in heavy if place in ONLY_IN.get(package, ())}


def test_only_the_driver_handles_futures():
    users = {str(path.relative_to(ROOT)) for path in modules() if ".submit(" in path.read_text()}
    assert users == {"search/driver.py", "search/executors.py", "search/worker_pool.py"}


def test_what_a_search_does_next_is_asked_of_decide_alone():
    named = "hyperpruning.search.schedulers.decide"
    assert {str(path.relative_to(ROOT)) for path in modules() if named in imported(path)} == set(CALLERS_OF_DECIDE)
    status = (ROOT / "report" / "status.py").read_text()
    assert "run.actions" in status  # `Run.actions` is what decide says
    assert "planned_epochs" in status
    assert "most_epochs" in (ROOT / "cli.py").read_text()  # a dry run: decide, asked to the end


def test_there_are_two_levels_and_no_rooms_without_a_name():
    assert {path.parent.parent for path in modules() if path.parent != ROOT} == {ROOT}
    assert not {room(path) for path in modules()} & {"utils", "core", "common", "base", "types", "registry", "plugins"}


def test_the_library_is_quiet():
    for path in modules():
        if room(path) != "cli":
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            assert "print" not in names, path
