"""docs/methods.md is written from the registry: `python tests/sparsity/test_methods_page.py` writes it anew."""

from pathlib import Path

from hyperpruning.sparsity.catalogue import NAMED
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.published import PUBLISHED
from hyperpruning.sparsity.serialization import COMPONENTS, to_config

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = """# Methods

Each is a composition of the parts below, ready as `hp.METHODS["rigl"]`, in an experiment.toml as
`[space] method = ["rigl", "set"]`. What a line does not say is the default:
{default}.
Sparsity and length of the training are the Sparsifier's, and the interval can be. This page is written from the
registry (`python tests/sparsity/test_methods_page.py`), and a test fails when it is stale.

| method | composition | source | when to use it |
|---|---|---|---|
"""
PARTS = """
## The parts

An update keeps the largest scores (drop, within its scope), shares what it exchanges out among the tensors
(redistribute), grows the largest scores (grow, within its scope), and begins the new weights (regrowth_init). How many,
is counted elsewhere and exactly: sampling is without replacement, shares are whole numbers by largest remainder, and of
equal weights the first in memory stays.

| part | choices |
|---|---|
"""
TAIL = """
A function of your own takes any of these places ([extending.md](extending.md)).

**Structured.** A unit (row, column, block) is chosen and moved whole, by the sum of its weights' scores. The budget is
then the nearest below the asked one that whole units reach, `sparsifier.budget`, and is met exactly. Units may change
tensors only where they cost the same. N:M holds within every group of consecutive weights of a row; its sparsity is
given by that.

**What a budget counts.** Weights, or with `Sparsifier(..., cost=hyperpruning.sparsity.costs.multiply_adds(model))`
(`counts = "multiply_adds"` in [pruning]) multiply-adds a token: embeddings cost none and stay dense, a decoder costs
its product, a convolution its positions.

**Before a comparison.** While a density falls, a network is denser than the others; a search therefore refuses methods
that are not at their final density by its first rung.

**Soft shrinkage.** Until it stops, `iss-p` is a dense network whose pruned weights shrink; evaluations use the pruned
copy (`sparsifier.masked()`), and only afterwards weights and optimizer state outside the masks are zero.

**Whole units** of an LSTM, GRU, RNN or RHN, with everything that goes with them in all tensors (Intrinsic Sparse
Structures, Wen et al. 2018), are pruned by `structured/units.py` and `unit_choices.py`, and cut away: what is left is a
smaller dense network with the same outputs. [examples/shrink.py](../examples/shrink.py) trains with the group penalty,
prunes, and shrinks. A unit costs hundreds of weights, so a budget of weights is met from below.

**Densities by search.** `sparsity/spdy.py` allocates weights to tensors by dynamic programming, exactly to the
budget or within a latency that `measured_times` measures, and searches how sensitive each tensor is with a calibration
loss (SPDY, Frantar & Alistarh 2022): [examples/allocation.py](../examples/allocation.py).

## As published, faults included

Opt-in updates with the published recurrent engine's behaviour, to reproduce its results: {published} (growth by chance,
SET's sign error, the threshold that ignores the drop fraction, the tolerance loop). Their budget holds in expectation
at best. They are in no default space.

## Left out

- **DeepR** (Bellec et al. 2018) replaces the optimizer's step by a noisy, sign-constrained one in every step: a second
  engine, and with the large learning rates of recurrent recipes its noise and penalty would need scales of their own.
- **Movement pruning** (Sanh et al. 2020) ranks by how weights move away from a pre-trained start; these networks are
  trained from scratch.
- **STR** (Kusupati et al. 2020) learns thresholds and reaches the sparsity that it reaches: no exact budget.
- **SynFlow** (Tanaka et al. 2020) multiplies |W| through all time steps, which overflows in recurrent networks, and its
  linear paths say little about gates.
"""


def line(name):
    spelling, usual = to_config(NAMED[name].method), to_config(Method())
    numbers = {part: f"{value:g}" if isinstance(value, float) else value for part, value in spelling.items()}
    parts = ", ".join(f"{part} {value}" for part, value in numbers.items() if spelling[part] != usual[part])
    return f"| {name} | {parts or 'the default'} | {NAMED[name].source} | {NAMED[name].use} |\n"


def page():
    usual = to_config(Method())
    default = ", ".join(f"{part} {usual[part]}" for part in ("allocation", "mask_init", "drop", "drop_scope", "grow"))
    default += f", redistribute {usual['redistribute']}, drop_fraction {usual['drop_fraction']}, decay {usual['decay']}"
    choices = "".join(f"| {part} | {', '.join(named)} |\n" for part, named in COMPONENTS.items() if part != "update")
    head, tail = HEAD.format(default=default), TAIL.format(published=", ".join(f"`{name}`" for name in PUBLISHED))
    return head + "".join(map(line, NAMED)) + PARTS + choices + tail


def test_the_page_is_what_the_registry_says():
    assert PAGE.read_text() == page()


def test_every_method_says_where_it_is_from_and_what_for():
    for name, named in NAMED.items():
        assert len(named.source) > 10, name
        assert len(named.use) > 10, name


if __name__ == "__main__":
    PAGE.write_text(page())
