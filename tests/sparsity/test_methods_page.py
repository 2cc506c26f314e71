"""docs/methods.md is generated from the registry: `python tests/sparsity/test_methods_page.py` writes it."""

from pathlib import Path

from hyperpruning.sparsity.catalogue import CATALOGUE
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.published_updates import PUBLISHED_UPDATES
from hyperpruning.sparsity.serialization import COMPONENTS, to_config

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = """# Methods

Each method is a composition of the parts below. Use it as `hp.METHODS["rigl"]`, or in an experiment.toml as
`[space] method = ["rigl", "set"]`. The table lists the parts that differ from the defaults. The defaults are:
{default}.
The Sparsifier gets the sparsity and the length of the training, and optionally the interval. This page is generated
from the registry (`python tests/sparsity/test_methods_page.py`), and a test fails if it is out of date.

| method | composition | source | when to use it |
|---|---|---|---|
"""
PARTS = """
## The parts

An update keeps the weights with the largest scores (drop, ranked within drop_scope), divides the number of new weights
among the tensors (redistribute), grows the weights with the largest scores (grow, ranked within grow_scope), and gives
the new weights their first values (regrowth_init). The numbers of weights are exact: random choices are without
replacement, proportional shares are rounded by largest remainder, and of equal scores the first in memory is chosen.

| part | choices |
|---|---|
"""
TAIL = """
Each part can also be a function of your own ([extending.md](extending.md)).

**Blocks.** A row, a column or a rectangle of weights is dropped and grown as a whole, by the sum of its weights'
scores. The number of active weights (`sparsifier.active_cost`) is then the largest that whole blocks reach within the
target, and it is exact. Blocks move between tensors only if all of them have the same cost. N:M sparsity holds in every
group of M consecutive weights of a row, and determines the sparsity.

**What the sparsity counts.** By default weights. With
`Sparsifier(..., cost=hyperpruning.sparsity.costs.multiply_adds(model))` (in an experiment.toml
`counts = "multiply_adds"` in [pruning]) it counts the multiply-adds per token: embeddings cost nothing and stay dense,
a decoder costs its matrix product, a convolution costs its output positions.

**Methods in a search.** While its density falls, a network is denser than the other candidates. A search therefore
refuses methods that do not have their final density at the first rung.

**Soft shrinkage.** Until `stop`, `iss-p` trains a dense network whose pruned weights shrink. Evaluations use the pruned
network (`sparsifier.masked()`). After `stop`, pruned weights and their optimizer state are zero.

**Hidden units** of an LSTM, GRU, RNN or RHN can be pruned with all their weights in all tensors (Intrinsic Sparse
Structures, Wen et al. 2018) by `structured/units.py` and `structured/selection.py`, and then be removed: the result is
a smaller dense network with the same outputs. [examples/shrink.py](../examples/shrink.py) trains with the group
penalty, prunes, and shrinks. A hidden unit has hundreds of weights, so the number of weights stays slightly below the
weight budget.

**Searched densities.** `sparsity/spdy.py` allocates weights to tensors by dynamic programming, either exactly to the
weight budget or within a latency that `measure_times` measured. It searches the sensitivity of each tensor with a
calibration loss (SPDY, Frantar & Alistarh 2022): [examples/allocation.py](../examples/allocation.py).

## Updates of the published recurrent engine

These optional updates behave as the published code of the recurrent engine does, faults included, to reproduce its
results: {published}. Its faults: growth by chance, the wrong sign in SET, a threshold
that ignores the drop fraction, and a tolerance loop. The number of active weights is only approximately the target. No
default search space contains them.

## Left out

- **DeepR** (Bellec et al. 2018) replaces every optimizer step by a noisy step with fixed signs. That would be a second
  engine, and the large learning rates of recurrent recipes would need other scales of its noise and penalty.
- **Movement pruning** (Sanh et al. 2020) ranks weights by their movement away from a pre-trained start; these networks
  are trained from scratch.
- **STR** (Kusupati et al. 2020) learns thresholds, so the resulting sparsity cannot be chosen exactly.
- **SynFlow** (Tanaka et al. 2020) multiplies |W| over all time steps, which overflows in recurrent networks, and its
  linear paths carry little information about gates.
"""


def line(name):
    config, default = to_config(CATALOGUE[name].method), to_config(Method())
    numbers = {part: f"{value:g}" if isinstance(value, float) else value for part, value in config.items()}
    parts = ", ".join(f"{part} {value}" for part, value in numbers.items() if config[part] != default[part])
    return f"| {name} | {parts or 'the default'} | {CATALOGUE[name].source} | {CATALOGUE[name].use} |\n"


SHOWN_DEFAULTS = ("allocation", "mask_init", "drop", "drop_scope", "grow", "redistribute", "drop_fraction", "decay")


def page():
    defaults, published = to_config(Method()), ", ".join(f"`{name}`" for name in PUBLISHED_UPDATES)
    default = ", ".join(f"{part} {defaults[part]}" for part in SHOWN_DEFAULTS)
    choices = "".join(f"| {part} | {', '.join(named)} |\n" for part, named in COMPONENTS.items() if part != "update")
    head, tail = HEAD.format(default=default), TAIL.format(published=published)
    return head + "".join(map(line, CATALOGUE)) + PARTS + choices + tail


def test_the_page_matches_the_registry():
    assert PAGE.read_text() == page()


def test_every_method_has_a_source_and_a_use():
    for name, entry in CATALOGUE.items():
        assert len(entry.source) > 10, name
        assert len(entry.use) > 10, name


if __name__ == "__main__":
    PAGE.write_text(page())
