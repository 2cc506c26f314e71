"""What networks cost where they run, as a file in the run folder; exports.py counts, the report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperpruning.files import checked_size, json_check, write_atomic
from hyperpruning.settings import check_types

COSTS = "costs.json"
MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Costs:
    """What a network costs, in exact counts that are equal on every machine.

    Attributes:
        multiply_adds: of one time step of one sequence: the nonzeros of the input matrices, the recurrent matrices and
            the decoder; None if they depend on the input (convolutions).
        exact_bytes, int8_bytes: of its weights in a model folder with this precision; None if they do not fit it.
    """

    multiply_adds: int | None
    exact_bytes: int | None
    int8_bytes: int | None


def read_costs(folder: Path) -> dict[str, Costs]:
    """The costs of the networks of a run folder, by the SHA-256 of their weights; empty without an undamaged file."""
    path = folder / COSTS
    try:
        checked_size(path, most=MOST_BYTES)
        content = json.loads(path.read_bytes())
        if content.pop("check", None) != json_check(content):
            return {}
        found = {str(sha256): Costs(**values) for sha256, values in content.items()}
        for one in found.values():
            check_types(one)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # it is derived from the checkpoints
    return found


def write_costs(folder: Path, costs: Mapping[str, Costs]) -> None:
    """Write the costs of networks, by the SHA-256 of their weights, into a run folder."""
    content = {sha256: asdict(one) for sha256, one in costs.items()}
    write_atomic(folder / COSTS, (json.dumps({**content, "check": json_check(content)}, indent=1) + "\n").encode())
