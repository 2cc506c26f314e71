"""The task of classifying sequences, of equal or of different lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.data.corpus import SPLITS, DataError
from hyperpruning.data.samples import (
    Samples,
    Splits,
    as_columns,
    as_tensor,
    is_ragged,
    mean_and_scale,
    padded,
    split_samples,
)
from hyperpruning.models.sequence_model import SequenceClassifier
from hyperpruning.settings import described, documented
from hyperpruning.tasks.sequence_task import SequenceTask
from hyperpruning.training.record import Metric

ACCURACY = Metric("accuracy", unit="%", from_loss=None, maximize=True)


@documented
@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceClassification(SequenceTask):
    """Classifying sequences: `SequenceClassification(data=(sequences, labels))`.

    Sequences are an array (N, T, I) or (N, T), or a list of arrays (T_i, I) of different lengths; labels are an array
    (N,) of numbers or names. Lengths (N,) may be given as a third array: what follows the end of a sequence has no
    effect on any result. A file has the arrays "x", "y", and, if you like, "lengths" and "split" (N,), the name of the
    split of each sample.

    The loss is the mean cross-entropy in nats, the metric is the accuracy in %. A `model` of your own is called with
    sequences (B, T, I), and with lengths (B,) if there are some; it returns logits (B, C).

    Raises:
        ValueError: a value is out of its range, or the data do not fit together.
    """

    ARRAYS: ClassVar[Sequence[str]] = ("x", "y", "lengths", "split")
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 2}

    metric: Metric = described("the number in which results are reported", ACCURACY)

    def _from_arrays(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        if missing := [name for name in ("x", "y") if name not in arrays]:
            raise DataError(
                f"The file of a classification must have the arrays x and y, got no {missing[0]} in {self.file}."
            )
        samples = tuple(arrays[name] for name in ("x", "y", "lengths") if name in arrays)
        if "split" not in arrays:
            return samples
        names = arrays["split"].astype(str)
        if len(names) != len(samples[0]) or set(names.tolist()) != set(SPLITS):
            raise DataError(
                f"split must have one of {', '.join(SPLITS)} for each of the {len(samples[0])} samples, and each "
                f"at least once, got {len(names)} of {sorted(set(names.tolist()))[:5]} in {self.file}. Write it again."
            )
        return {split: tuple(array[names == split] for array in samples) for split in SPLITS}

    def _split(self, data: Any) -> Splits:
        parts = {split: _arrays(part) for split, part in (data if isinstance(data, Mapping) else {"": data}).items()}
        labels = np.unique(np.concatenate([samples[1] for samples in parts.values()]))
        if len(labels) < 2:
            raise DataError(f"The labels must have at least two classes, got {labels.tolist()}. Give other data.")
        numbered = {split: (x, np.searchsorted(labels, y), *lengths) for split, (x, y, *lengths) in parts.items()}
        found = split_samples(numbered if isinstance(data, Mapping) else numbered[""], self.fractions, self.split_seed)
        return replace(found, classes=tuple(map(str, labels.tolist())))

    def _network(self, inputs: int, outputs: int, *, seed: int, **sizes: Any) -> SequenceClassifier:
        return SequenceClassifier(inputs, outputs, **self.model_sizes | sizes, seed=seed)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.splits.train[0].shape[2], len(self.splits.classes)

    @cached_property
    def standardization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature in the training data; 0 and 1 without `standardize`."""
        x, _, *lengths = self.splits.train
        steps = x[_inside(x, lengths[0])] if lengths else x.flatten(0, 1)
        return mean_and_scale(steps, self.standardize)

    def _batch(self, samples: Samples, network: nn.Module) -> Samples:
        """The samples up to the end of the longest."""
        x, y, *lengths = samples
        return super()._batch((x[:, : int(lengths[0].max())] if lengths else x, y, *lengths), network)

    def _logits(self, network: nn.Module, batch: Samples) -> Tensor:
        x, y, *lengths = batch
        logits: Any = network(x, *lengths)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(y):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"The model must return logits ({len(y)}, classes), got {shape}. Reshape them, or give loss_fn."
            )
        return logits

    def _loss(self, network: nn.Module, batch: Samples) -> Tensor:
        if self.loss_fn is not None:
            return super()._loss(network, batch)
        return functional.cross_entropy(self._logits(network, batch), batch[1])

    def _measure(self, network: nn.Module, batch: Samples) -> tuple[Any, ...]:
        if self.metric != ACCURACY or self.metric_fn is not None:
            return super()._measure(network, batch)
        logits = self._logits(network, batch)
        accuracy = 100 * (logits.argmax(1) == batch[1]).double().mean()
        loss = functional.cross_entropy(logits, batch[1]) if self.loss_fn is None else self._loss(network, batch)
        return loss, accuracy

    def _probe(self) -> Samples:
        """The longest validation samples, cut to the shortest of these: a spectrum needs sequences of equal lengths."""
        x, y, *lengths = self.splits.valid
        if not lengths:
            return super()._probe()
        chosen = lengths[0].argsort(descending=True, stable=True)[: self.probe_batch]
        shortest = lengths[0][chosen].min()
        return x[chosen, : int(shortest)], y[chosen], shortest.repeat(len(chosen))

    def baseline_loss(self, split: str) -> float:
        """The cross-entropy of predicting the frequencies of the classes in the training data, each count plus 1."""
        counts = torch.bincount(self.splits.train[1], minlength=len(self.splits.classes)).double() + 1
        return float((counts.sum().log() - counts.log())[self.splits[split][1]].mean())

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The sizes of a network of the package, how the data are read, their hash, and the classes."""
        return {**self._description("classification", network), "classes": list(self.splits.classes)}


def _arrays(data: Any) -> tuple[Tensor, np.ndarray[Any, Any], *tuple[Tensor, ...]]:
    """Return sequences (N, T, I), labels (N,), and, for sequences of different lengths, their lengths (N,)."""
    sequences, labels, *lengths = as_columns(data)
    if len(lengths) > 1:
        raise DataError(
            f"Samples must be (sequences, labels) or (sequences, labels, lengths), got {len(lengths) + 2} arrays."
        )
    if not lengths and is_ragged(sequences):
        sequences, *lengths = padded(sequences)
    labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iufbUS" or len(labels) != len(sequences):
        raise DataError(
            f"Labels must be one number or name for each of the {len(sequences)} sequences, got {labels.dtype} of "
            f"shape {labels.shape}. Reshape them."
        )
    x, ends = _ended(sequences, lengths)
    return (x, labels, *ends)


def _ended(sequences: Any, lengths: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    """Return the sequences as a tensor (N, T, I) with zeros after their ends, and their lengths, checked."""
    x = sequences.detach().cpu() if isinstance(sequences, Tensor) else torch.from_numpy(np.array(sequences))
    x = x[..., None] if x.dim() == 2 else x
    if x.dim() != 3 or 0 in x.shape:
        raise DataError(
            f"Sequences must have the shape (N, time steps, features) or (N, time steps), got {tuple(x.shape)}. "
            "Reshape them."
        )
    ends = [as_tensor("Lengths", one) for one in lengths]
    for one in ends:
        if one.shape != (len(x),) or one.is_floating_point() or int(one.min()) < 1 or int(one.max()) > x.shape[1]:
            raise DataError(
                f"Lengths must be whole numbers from 1 to {x.shape[1]}, one for each of the {len(x)} sequences, got "
                f"{one.dtype} of shape {tuple(one.shape)} from {one.min()} to {one.max()}. Correct them."
            )
        x = torch.where(_inside(x, one)[..., None], x, torch.zeros((), dtype=x.dtype))
    return as_tensor("Sequences", x).float(), ends


def _inside(x: Tensor, lengths: Tensor) -> Tensor:
    """Return which steps of padded sequences (N, T, ...) are before their ends, (N, T)."""
    return torch.arange(x.shape[1]) < lengths[:, None]
