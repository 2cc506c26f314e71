"""The card of a model folder: what a search knows of a network, for whoever gets the network without the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from hyperpruning.report.run import Run
from hyperpruning.search.history import DENSE, SMALL


def model_card(run: Run, name: str, network: nn.Module, groups: Mapping[str, int]) -> dict[str, Any]:
    """What the card says besides the description of a model file, in JSON types.

    Args:
        run: the finished search.
        name: of the network.
        network: with its trained weights.
        groups: number of gates in the rows of each recurrent matrix, by parameter name.
    """
    record = max(run.records(name).values(), key=lambda record: record.epoch)
    named = {DENSE: "dense", SMALL: "dense_as_many_weights"}
    return {
        "metrics": _metrics(run, name),
        **{key: _metrics(run, other) for other, key in named.items() if other in run.history.finals},
        "spectrum": {"epoch": record.epoch, "nats per step": list(record.spectrum)},
        "sparsity_of_gates": _sparsity_of_gates(network, groups),
        "method_in_words": run.method(name),
        "provenance": {
            "network": name,
            "criteria": list(run.plan.criteria),
            "why": run.why if name == run.winner else "exported by name",
            "search_versions": dict(run.header.versions),
            "search": dict(run.header.identity),
        },
    }


def _metrics(run: Run, name: str) -> dict[str, Any]:
    final, metric = run.history.finals[name], run.metric
    found = {"valid": run.valid(final), "test": run.test(final), "valid_loss": final.valid_loss}
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "better": "larger" if metric.maximize else "smaller",
        **{
            key: value if math.isfinite(value) else None
            for key, value in {**found, "test_loss": final.test_loss}.items()
        },
        "active": final.active,
        "protocol": "The weights of the epoch with the lowest validation loss; the test split is read once.",
    }


def _sparsity_of_gates(network: nn.Module, groups: Mapping[str, int]) -> dict[str, list[float]]:
    """Fraction of zeros in each gate of each recurrent matrix, in the order of its rows."""
    return {
        name: [float((gate == 0).double().mean()) for gate in value.detach().cpu().chunk(groups[name])]
        for name, value in network.named_parameters()
        if name in groups and value.ndim == 2
    }
