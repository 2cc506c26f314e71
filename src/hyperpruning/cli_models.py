"""Commands for a model that is deployed: how fast it is here, and text from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from hyperpruning.cli_errors import guarded
from hyperpruning.deploy.benchmark import DeployedSize, StepTime
from hyperpruning.deploy.benchmark import benchmark as measure_steps
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.generation import generate as generated
from hyperpruning.deploy.model_folder import describe, load

Model = Annotated[Path, typer.Argument(help="A model folder, or a model file (*.safetensors).")]


def add_commands(app: typer.Typer, out: Console) -> None:
    """Add the commands of this file to the app; they print on `out`."""

    @app.command(epilog="Example: hyperprune benchmark model")
    @guarded
    def benchmark(
        model: Model,
        seconds: Annotated[float, typer.Option(min=0, help="That the measurement may take.")] = 2.0,
    ) -> None:
        """How fast a model is on one core here: dense and sparse, and what was chosen for each matrix."""
        found = measure_steps(load(model), seconds=seconds)
        out.print(_steps_table(found))
        for step in found:
            if not step.name.startswith("dense"):
                out.print(_matrices_table(step))

    @app.command(epilog='Example: hyperprune generate model --prompt "The " --tokens 100')
    @guarded
    def generate(
        model: Model,
        prompt: Annotated[str, typer.Option(help="The text before; default: the end of a line.")] = "",
        tokens: Annotated[int, typer.Option(help="Number of tokens to draw.")] = 200,
        temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 1.0,
        seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
        decoder: Annotated[str, typer.Option(help='"exact" or "int8".')] = "exact",
    ) -> None:
        """Text from a language model."""
        about = describe(model)
        if "vocabulary" not in about or "unit" not in about:
            raise ValueError(
                f"A model that generates text must have a vocabulary and say what a token is, got {model} without. "
                "Give a language model that hyperprune export wrote."
            )
        drawn = generated(
            Decoder.load(model, precision=decoder),
            about["vocabulary"],
            about["unit"],
            tokens=tokens,
            prompt=prompt,
            temperature=temperature,
            seed=seed,
        )
        for text in drawn:
            out.print(text, end="", soft_wrap=True)
        out.print()


def deployed_table(found: list[DeployedSize]) -> Table:
    """The table of `deployed_sizes`: the dense network comes first, and the others are compared with it."""
    table = Table("as deployed", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("weights", "of dense", "us a token", "times as fast"):
        table.add_column(heading, justify="right")
    dense = found[0]
    for one in found:
        table.add_row(
            one.name,
            f"{one.bytes / 1024:.0f} KiB",
            "" if one is dense else f"{one.bytes / dense.bytes:.1%}",
            f"{one.microseconds:.1f}",
            "" if one is dense else f"{dense.microseconds / one.microseconds:.1f}",
        )
    return table


def _steps_table(steps: list[StepTime]) -> Table:
    table = Table("decoder", box=None, pad_edge=False)
    for heading in ("us a step", "times dense fp32", "bytes read", "GB/s", "share of bandwidth"):
        table.add_column(heading, justify="right")
    first = steps[0].microseconds if steps[0].name == "dense fp32" else None
    for step in steps:
        table.add_row(
            step.name,
            f"{step.microseconds:.1f}",
            "" if first is None else f"{first / step.microseconds:.1f}",
            f"{step.bytes:,}",
            f"{step.bytes / step.microseconds / 1e3:.1f}",
            "" if step.share is None else f"{step.share:.0%}",
        )
    return table


def _matrices_table(step: StepTime) -> Table:
    table = Table(f"{step.name}: matrix", box=None, pad_edge=False)
    for heading in ("size", "zeros", "chosen", "us", "dense us", "bytes read"):
        table.add_column(heading, justify="right")
    for one in step.matrices:
        times = one.microseconds
        dense = next((value for name, value in times.items() if "dense" in name), None)
        table.add_row(
            one.name,
            f"{one.rows} x {one.columns}",
            f"{one.sparsity:.1%}",
            one.format,
            f"{times[one.format]:.1f}" if one.format in times else "",
            "" if dense is None else f"{dense:.1f}",
            f"{one.bytes:,}",
        )
    return table
