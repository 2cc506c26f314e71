"""docs/methods.md is generated from the registry: `python tests/sparsity/test_methods_page.py` writes it."""

import inspect
import re
from pathlib import Path

from hyperpruning.sparsity.catalogue import CATALOGUE
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.published_updates import PUBLISHED_UPDATES
from hyperpruning.sparsity.serialization import COMPONENTS, DEFAULT_CHOICES, LEFT_OUT, to_config

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = """# Methods

Each method is a composition of the parts below. Use it as `hp.METHODS["rigl"]`, or in an experiment.toml as
`[space] method = ["rigl", "set"]`. The table lists the parts that differ from the defaults, which are below
([The parts](#the-parts)). All of them have floor 0 and ceiling 1, that is no limits, because no published code has any.
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

| part | default | choices |
|---|---|---|
"""
MEANINGS = """
What each of them means:

"""
TAIL = """
Each part can also be a function of your own ([extending.md](extending.md)).

**Blocks.** A row, a column or a rectangle of weights is dropped and grown as a whole, by the sum of its weights'
scores. The number of active weights (`sparsifier.active_cost`) is then the largest that whole blocks reach within the
target, and it is exact. Blocks move between tensors only if all of them have the same cost.

`block_8x4` are the blocks of the decoder and of the C export: 8 outputs (rows) x 4 inputs (columns). Where a size does
not divide, the blocks at the edge have fewer weights. Then the number of active blocks is exact. It is the largest with
which no choice of blocks has more weights than the target, so the active weights can be a little fewer; sparsities are
computed from the weights that are there. The score of a partial block is the mean of its weights' scores, times the
size of a whole block: by the bare sum, the last rows of a matrix (classes of an output layer) would be pruned first.
The other granularities refuse a size that does not divide.

N:M sparsity holds in every group of M consecutive weights of a row, and determines the sparsity.

**Densities of gates.** `gate_density_1` to `gate_density_4` divide the weights of each recurrent matrix between its
gates: RNNoise's densities 0.3, 0.2 and 0.5 of the gates r, z and n of a GRU are these three numbers at sparsity 2/3. At
another sparsity the densities keep their ratios. Every update keeps them, to the weight or to the block. As dimensions
of a search they are in `[space] numbers`.

**Initial weights.** A network that starts sparse starts with small outputs: at sparsity 0.9 a unit has a tenth of its
inputs. With `weight_init = "fan_in"` each row of a matrix starts larger by sqrt(columns / active weights), so that its
output varies as much as in the dense network (Evci et al. 2022). No published method here does so; the default space of
a search does, since it trains from scratch. Leave it out where the network is trained already.

**Random regrowth.** With `regrowth_init = "random"` each update disturbs the network, until the last one. An early look
cannot see it, and averages of the weights contain it: let the masks stay as they are for the last part of the training
(`stop`), or take another one.

**A dense recurrent diagonal.** With `dense_part = "recurrent_diagonal"` the weight from each hidden unit to itself is
never pruned; with blocks, every block on the diagonal. These weights count as active.

**What the sparsity counts.** By default weights. With
`Sparsifier(..., cost=hyperpruning.sparsity.costs.multiply_adds(model))` (in an experiment.toml
`counts = "multiply_adds"` in [pruning]) it counts the multiply-adds per token: embeddings cost nothing and stay dense,
a decoder costs its matrix product, a convolution costs its output positions.

**Floor and ceiling.** A redistribution or a global scope can leave a tensor with few weights or none. In a composition
of your own, and so in the default search space, no tensor gets below a density of 0.02 or above 0.98 by them. With
`floor = 0`, as in the named methods, an update that would empty a tensor is an error. `hp.METHODS["dsr"]` with limits
is `dataclasses.replace(hp.METHODS["dsr"], floor=0.02, ceiling=0.98)`.

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
that ignores the drop fraction, a tolerance loop, and a guard of nearly dense tensors that plans with other shares than
it drops with. The redistribution "nonzeros" counts the weights above the threshold of the drop (0.001 at first). The
number of active weights is only approximately the target. Floor and ceiling have no effect. No default search space
contains them. Not reproduced: the limit of growth at 99 % of the empty places, and the feedback of its error.

## What differs from the authors' code

The functions of the methods were run side by side with their authors' code, on the same tensors; DSR and the original
SET have no repository and were compared with their rules. tests/sparsity/test_parity.py keeps the numbers that need no
foreign code. What is not listed here is equal up to rounding.

- **Counts are exact.** Their growth draws each place with a probability, their thresholds drop ties, their roundings of
  each tensor add up to another total.
- **Regrowth.** A weight that is dropped and grown again in the same update starts at zero. With
  `regrowth_init = "keep"` it keeps its value, as in the code of RigL, GraNet and Selfish-RNN. RigL and jaxpruner skip
  the optimizer step in which they update; here updates do not replace steps.
- **The cap.** An update replaces at most as many weights as there are empty places (at density 0.7 and f = 0.5, 614 of
  2,048 weights and not 717): a nearly dense tensor would otherwise drop weights and grow the same ones again, at zero.
  With `regrowth_init = "keep"` that costs nothing, and there is no cap.
- **Floor and ceiling** exist here alone, see above.
- **Shares.** `momentum` takes the mean over the weights before the drop, as the code of SNFS does; `magnitude` and
  `gradient` take it over the weights that the drop left, and `nonzeros` counts these, as DSR does. Growth that finds no
  room in its tensor goes to the others in proportion to their shares; the code of SNFS spreads what is above 99 % of
  the room in equal parts.
- **Decay.** `cosine` ends at 0. The code of SNFS, Selfish-RNN, ITOP and GraNet ends at a drop fraction of 0.005. MEST
  replaces 2 %, then 1 %, then none of *all* weights, in steps (at density 0.1: 0.2, 0.1 and 0 of the active ones);
  `mest` decays linearly from 0.2 of the active weights, whatever the density.
- **DSR** drops an exact number where its code adapts a threshold. **SET** splits the drop between the signs in
  proportion to their weights; the code of ITOP in halves.
- **GraSP** divides the logits by a temperature of 200 in its code, which changes the weights that it chooses (about
  three in four are the same). Here the calibration decides: `calibration=lambda: cross_entropy(model(x) / 200, y)`.
- **ISS-P** ranks in every step in its code, `iss-p` every 10 steps; `interval = 1` is as the code.
- **GraNet** lowers its density at every update; its code stops one update early (0.1011 for 0.1).
- **SPDY** rounds costs up, so that the weight budget holds; its code rounds to the nearest.
- **Mixture of softmaxes.** Its code normalises p + 1e-8 once more; here the loss is the cross-entropy of p. A
  perplexity of 63 on WikiText-2 in its code is 0.02 less here.
- **Random lengths of windows** scale the learning rate of their step at once, as AWD-LSTM means it. torch's ASGD uses
  the scaled rate one step late, and the code of Selfish-RNN never uses it on masked tensors.

## Left out

- **DeepR** (Bellec et al. 2018) replaces every optimizer step by a noisy step with fixed signs. That would be a second
  engine, and the large learning rates of recurrent recipes would need other scales of its noise and penalty.
- **Movement pruning** (Sanh et al. 2020) ranks weights by their movement away from a pre-trained start; these networks
  are trained from scratch.
- **STR** (Kusupati et al. 2020) learns thresholds, so the resulting sparsity cannot be chosen exactly.
- **SynFlow** (Tanaka et al. 2020) multiplies |W| over all time steps, which overflows in recurrent networks, and its
  linear paths carry little information about gates.
"""


def text(value):
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def line(name):
    config, default = to_config(CATALOGUE[name].method), to_config(Method(floor=0.0, ceiling=1.0))
    parts = ", ".join(f"{part} {text(value)}" for part, value in config.items() if value != default[part])
    return f"| {name} | {parts or 'the default'} | {CATALOGUE[name].source} | {CATALOGUE[name].use} |\n"


def meanings():
    """The attributes in the docstring of Method, as a list."""
    attributes = inspect.getdoc(Method).split("Attributes:\n")[1].split("\n\n")[0]
    return re.sub(r"^    (\w+): ", r"- `\1`: ", re.sub(r"\n {8}", "\n  ", attributes), flags=re.MULTILINE)


def page():
    published = ", ".join(f"`{name}`" for name in PUBLISHED_UPDATES)
    defaults = to_config(Method()) | {part: getattr(Method(), part) for part in LEFT_OUT} | DEFAULT_CHOICES
    rows = [(part, text(value), ", ".join(COMPONENTS.get(part, ()))) for part, value in defaults.items()]
    choices = "".join(f"| {part} | {value} | {named} |\n" for part, value, named in rows)
    tail = TAIL.format(published=published)
    return HEAD + "".join(map(line, CATALOGUE)) + PARTS + choices + MEANINGS + meanings() + "\n" + tail


def test_the_page_matches_the_registry():
    assert PAGE.read_text() == page()


def test_the_page_lists_every_field_with_its_default_and_meaning():
    for name, value in to_config(Method()).items():
        assert f"| {name} | {text(value)} |" in page()
        assert f"- `{name}`: " in page()


def test_every_method_has_a_source_and_a_use():
    for name, entry in CATALOGUE.items():
        assert len(entry.source) > 10, name
        assert len(entry.use) > 10, name


if __name__ == "__main__":
    PAGE.write_text(page())
