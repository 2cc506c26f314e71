"""The metric of a network in every form that it is deployed in: torch, decoder, and for texts ONNX Runtime.

    python benchmarks/deployed_metrics.py model --data my_text
    python benchmarks/deployed_metrics.py --digits

The text is read in 16 parallel streams; every token except the first of each is predicted. --digits runs
examples/digits.py and evaluates its networks on the 270 test images.
"""

from __future__ import annotations

import argparse
import math
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch
from torch.nn import functional

import hyperpruning as hp
from hyperpruning.api import evaluate_model
from hyperpruning.data.batches import batchify
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.evaluation import SequenceDecoder
from hyperpruning.deploy.model_folder import describe, load
from hyperpruning.deploy.onnx_export import export_onnx
from hyperpruning.exports import network_of

BATCH = 16
DIGITS = Path(__file__).parent.parent / "examples" / "digits.py"


def onnx_loss(path: Path, columns: torch.Tensor) -> float:
    """Mean cross-entropy in nats of whole sequences in ONNX Runtime, over columns (N, B)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    state = {
        one.name: np.zeros((columns.shape[1], one.shape[1]), np.float32)
        for one in session.get_inputs()
        if one.name != "x"
    }
    total = 0.0
    for start in range(0, len(columns) - 1, 100):
        targets = columns[start + 1 : start + 101]
        x = columns[start : start + len(targets)].numpy()
        values = dict(zip(names, session.run(None, {"x": x, **state}), strict=True))
        state = {name: values[f"{name}_next"] for name in state}
        logits = torch.from_numpy(values["output"]).flatten(0, 1)
        total += float(functional.cross_entropy(logits, targets.flatten(), reduction="sum").double())
    return total / columns[1:].numel()


def digits_metrics(*arguments: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Loss in nats and accuracy in percent on the test images, by network of the digits example and by its form.

    Args:
        arguments: of the example.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        argv, place = (
            mock.patch.object(sys, "argv", [str(DIGITS), *arguments]),
            mock.patch.object(tempfile, "tempdir", folder),
        )
        with argv, place:
            names = runpy.run_path(str(DIGITS))
        (run,) = (path.parent for path in Path(folder).glob("*/ledger.jsonl"))
        for name in ("dense", *dict.fromkeys(names["history"].winners.values())):
            network = network_of(run, names["plan"], candidate=name)
            forms = {"torch": network}
            for precision in ("exact", "int8"):
                forms[f"decoder {precision}"] = SequenceDecoder(Decoder(network, precision=precision))
            found[name] = {form: names["task"].evaluate(module, "test") for form, module in forms.items()}
    return found


def print_digits() -> None:
    """Measure and print the digits example."""
    for name, forms in digits_metrics().items():
        for form, (loss, accuracy) in forms.items():
            change = 100 * (loss / forms["torch"][0] - 1)
            print(f"{name:8} {form:16} loss {loss:.5f} {change:+8.4f} %  accuracy {accuracy:.2f} %")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="a model folder or file")
    parser.add_argument("--digits", action="store_true", help="the networks of examples/digits.py instead")
    parser.add_argument("--data", type=Path, help="a folder with the text; default: the built-in one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.digits:
        print_digits()
        return
    if options.model is None:
        parser.error("A model must be given without --digits.")
    about = describe(options.model)
    fraction = about.get("fraction", 1.0)  # the text that it was trained on, with its vocabulary
    corpus = hp.LanguageModelling(folder=options.data, unit=about["unit"], fraction=fraction).corpus()
    losses = {
        f"decoder {form}" if form else "torch": evaluate_model(
            options.model, data=options.data, batch=BATCH, decoder=form
        ).loss
        for form in (None, "exact", "int8")
    }
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("exact", "int8"):
            path = export_onnx(load(options.model), Path(folder) / "m.onnx", sequences=True, precision=precision)
            losses[f"ONNX Runtime {precision}"] = onnx_loss(path, batchify(corpus.test, BATCH))
    for name, loss in losses.items():
        print(f"{name:20} {math.exp(loss):10.4f} {100 * (math.exp(loss - losses['torch']) - 1):+8.4f} %")


if __name__ == "__main__":
    main()
