"""A task of one's own from what cannot be derived: a model, data and a loss. Everything else has a default."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyperpruning.data.samples import Samples, Splits, shuffled_batches, split_samples
from hyperpruning.settings import check_settings, described, documented, is_setting, setting
from hyperpruning.sparsity.gates import row_groups
from hyperpruning.tasks.narrower import narrower_task
from hyperpruning.tasks.recurrence import evaluating, probed, recurrent_module
from hyperpruning.training.record import Metric

Loss = Callable[[nn.Module, Samples], Tensor]
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
