"""The Sparsifier in training loops as people write them: AMP, accumulation, compilation, optimizers, checkpoints."""

import copy
import dataclasses
import io
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.loop import PATIENCE
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.testing.comparison import bits

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "sgd, foreach": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "sgd, fused": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
    "adam, fused": lambda groups: torch.optim.Adam(groups, lr=0.01, fused=True),
    "adamw, foreach": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=True),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.05),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.01),  # states of other shapes only
}


class Tagger(nn.Module):
    """An LSTM whose decoder is tied to its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.decoder = nn.Embedding(12, 8), nn.LSTM(8, 8), nn.Linear(8, 12)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(self.rnn(self.embedding(tokens))[0])


def tagger(dtype=torch.float32):
    torch.manual_seed(3)
    return Tagger().to(dtype)


def batch(step, count=4):
    return torch.randint(12, (6, count), generator=torch.Generator().manual_seed(step))


def loss_of(model, tokens):
    return nn.functional.cross_entropy(model(tokens[:-1]).flatten(0, 1), tokens[1:].flatten())


def sparsifier_of(model, optimizer, name="rigl", **options):
    return Sparsifier(model, optimizer, METHODS[name], sparsity=0.7, total_steps=40, interval=3, **options)


def groups_of(model):
    """Two parameter groups; the tied weight is in the first."""
    rnn = [*model.rnn.parameters()]
    rest = [parameter for parameter in model.parameters() if not any(parameter is one for one in rnn)]
    return [{"params": rest, "weight_decay": 0.0}, {"params": rnn, "weight_decay": 1e-3}]


def off_mask_is_zero(model, optimizer, sparsifier):
    for name, mask in sparsifier.masks.items():
        parameter = model.get_parameter(name)
        for key, value in {"weight": parameter.detach(), **optimizer.state[parameter]}.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                assert not value[~mask].any(), (name, key)


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizers_state_is_masked_with_parameter_groups_and_a_tied_weight(kind):
    model = tagger()
    optimizer = OPTIMIZERS[kind](groups_of(model))
    sparsifier = sparsifier_of(model, optimizer)
    assert list(sparsifier.masks) == ["embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    shaped, updates = Counter(), 0
    for step in range(10):
        optimizer.zero_grad()
        loss_of(model, batch(step)).backward()
        optimizer.step()
        states = {p: {k: copy.deepcopy(v) for k, v in state.items()} for p, state in optimizer.state.items()}
        updates += sparsifier.step() is not None
        off_mask_is_zero(model, optimizer, sparsifier)
        assert sparsifier.active_cost == round(0.3 * 608)
        named = {model.get_parameter(name): mask for name, mask in sparsifier.masks.items()}
        for parameter, state in states.items():
            for key, value in state.items():
                now, tensor = optimizer.state[parameter][key], isinstance(value, torch.Tensor)
                if parameter in named and tensor and value.shape == parameter.shape:
                    shaped[key] += 1
                    assert now[named[parameter]].any()
                else:  # a count, a factored average, the state of a bias
                    assert torch.equal(now, value) if tensor else now == value
    assert updates == 3
    states = {"sgd": 1, "adamw": 2, "adam": 3, "rmsprop": 3, "adagrad": 1, "nadam": 2, "adafactor": 0}
    kinds = 2 if kind == "adam, fused" else states[kind.split(",")[0]]
    assert len(shaped) == kinds


def scaled_loop(model, optimizer, sparsifier, scaler, steps, broken=()):
    """Train with a GradScaler; the gradients of the broken steps are not finite."""
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, batch(step)) * (float("inf") if step in broken else 1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        update = sparsifier.step()
        assert update is None or step not in broken
        yield update


@pytest.mark.parametrize("kind", ["sgd", "adam", "adam, fused"])
@pytest.mark.parametrize("name", ["rigl", "snfs", "gmp"])
def test_a_step_that_a_grad_scaler_skips_is_no_step(kind, name):
    broken, taken = {0, 1, 5, 9, 12}, []
    for scaled in (True, False):
        model = tagger()
        optimizer = OPTIMIZERS[kind](groups_of(model))
        sparsifier = sparsifier_of(model, optimizer, name)
        # a scale of 1 divides exactly, so that the weights can be compared bit for bit
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1.0, backoff_factor=1.0 - 2**-40)
        steps = [step for step in range(20) if scaled or step not in broken]
        updates = [update for update in scaled_loop(model, optimizer, sparsifier, scaler, steps, broken) if update]
        taken.append((updates, model.state_dict(), sparsifier.state_dict()))
    (ours, weights, state), (theirs, expected, other) = taken
    assert ours == theirs
    assert len(ours) == 5
    assert state["step"] == other["step"] == 15
    assert equal(weights, expected)
    assert equal(state["masks"], other["masks"])
    assert equal(state["memory"], other["memory"])
    assert bool(state["memory"]) == (name == "snfs")


def test_autocast_with_a_grad_scaler_and_clipping():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier, scaler = sparsifier_of(model, optimizer), torch.amp.GradScaler("cpu")
    inputs, updates, losses = torch.randn(16, 8), 0, []
    for step in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(inputs) - inputs).square().mean()
        scaler.scale(loss * (float("nan") if step == 4 else 1)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        updates += sparsifier.step() is not None
        losses.append(float(loss.detach()))
        off_mask_is_zero(model, optimizer, sparsifier)
    assert (updates, sparsifier.active_cost) == (6, 96)  # of 19 steps, one in three
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", ["rigl", "set", "snfs"])
@pytest.mark.parametrize("every_call", [True, False])
def test_accumulated_gradients_give_the_masks_of_the_whole_batch(name, every_call):
    taken = []
    for parts in (1, 4):
        model = tagger(torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        sparsifier = sparsifier_of(model, optimizer, name)
        found = []
        for step in range(12):
            for number, part in enumerate(batch(step, 8).chunk(parts, 1), 1):
                (loss_of(model, part) / parts).backward()
                if number == parts:
                    optimizer.step()
                if every_call or number == parts:  # as a callback does that is called after every batch
                    found.append(sparsifier.step())
            optimizer.zero_grad()
        taken.append(([update for update in found if update], sparsifier.masks, model.state_dict()))
    (whole, masks, weights), (accumulated, others, near) = taken
    assert whole == accumulated
    assert [update.step for update in whole] == [3, 6, 9, 12]
    assert equal(masks, others)
    for key, value in weights.items():
        torch.testing.assert_close(near[key], value, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.timeout(600),
                pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a compiler"),
            ],
        ),
    ],
)
def test_a_compiled_model_has_the_names_and_the_masks_of_the_plain_one(backend):
    taken = []
    for compiled in (False, True):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 8)).double()
        model = torch.compile(plain, backend=backend) if compiled else plain
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sparsifier_of(model, optimizer, row_groups={"0.weight": 4})
        for step in range(10):
            optimizer.zero_grad()
            inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(step)).double()
            (model(inputs) - inputs).square().mean().backward()
            optimizer.step()
            sparsifier.step()
            off_mask_is_zero(plain, optimizer, sparsifier)
            assert not compiled or not plain[0].weight[~sparsifier.masks["0.weight"]].any()
        taken.append(sparsifier.state_dict())
        sparsifier.load_state_dict(taken[0])  # what is saved without compilation is loaded with it
    assert set(taken[0]["masks"]) == {"0.weight", "2.weight"}
    assert equal(taken[0]["masks"], taken[1]["masks"])
    torch._dynamo.reset()


@pytest.mark.parametrize("sparsifier_last", [True, False])
def test_a_checkpoint_of_a_bare_loop_continues_bit_for_bit(sparsifier_last):
    def parts(states=None):
        model = tagger()
        optimizer = torch.optim.Adam(groups_of(model), lr=0.01)
        if states and sparsifier_last:  # as frameworks do, which restore weights before their callbacks begin
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        given = {"state": states[2]} if states and sparsifier_last else {}
        sparsifier, scaler = sparsifier_of(model, optimizer, "snfs", **given), torch.amp.GradScaler("cpu")
        for part, state in zip((model, optimizer, sparsifier, scaler), states or (), strict=bool(states)):
            if part is scaler or not sparsifier_last:
                part.load_state_dict(state)
        return model, optimizer, sparsifier, scaler

    whole, broken, file = parts(), {0, 2, 8, 13}, io.BytesIO()
    for step, _ in enumerate(scaled_loop(*whole, range(20), broken)):
        if step == 8:  # a step that was skipped
            torch.save([part.state_dict() for part in whole], file)
    file.seek(0)
    continued = parts(torch.load(file, weights_only=True))
    list(scaled_loop(*continued, range(9, 20), broken))
    assert bits([part.state_dict() for part in continued]) == bits([part.state_dict() for part in whole])


def test_without_total_steps_it_warns_once_and_says_what_that_costs():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sparsifier = Sparsifier(model, optimizer, METHODS["rigl-erk"], sparsity=0.9, interval=1)
        for _ in range(3):
            model(torch.ones(8)).sum().backward()
            optimizer.step()
            sparsifier.step()
    assert [one.category for one in seen] == [UserWarning]
    assert seen[0].filename == __file__
    assert str(seen[0].message) == (
        "total_steps must be given when the drop fraction of a method decays or its updates stop, got None: it does "
        "not decay and they go on, which costs accuracy (rigl-erk at 90 % sparsity: .953 to .913, .936 to .900, "
        ".929 to .858). Give the Sparsifier total_steps=, the optimizer steps of the whole training."
    )


def test_the_tutorial_says_what_was_measured():
    root = Path(__file__).parents[2]
    measured = json.loads((root / "benchmarks" / "results" / "total_steps.json").read_text())
    given, left_out = (", ".join(f"{value:.3f}" for value in measured[which]) for which in ("with", "without"))
    said = " ".join((root / "docs" / "tutorial.md").read_text().split())
    assert f"a test accuracy of {given} with `total_steps` and {left_out} without" in said


def test_without_total_steps_it_is_quiet_where_they_change_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("static", "set", "snip"):  # no updates; a constant drop fraction to the end
            model = nn.Linear(8, 8)
            calibration = lambda model=model: model(torch.ones(8)).square().sum()  # noqa: E731
            Sparsifier(model, None, METHODS[name], sparsity=0.5, calibration=calibration)
        method = dataclasses.replace(METHODS["set"], stop=0.9)
        with pytest.raises(UserWarning, match="total_steps must be given"):
            Sparsifier(nn.Linear(8, 8), None, method, sparsity=0.5)


def test_a_loop_that_never_steps_the_optimizer_is_noticed():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsifier_of(model, optimizer, "set")
    for _ in range(PATIENCE - 1):
        assert sparsifier.step() is None
    with pytest.warns(UserWarning, match=rf"step\(\) must follow a step of the optimizer, got {PATIENCE} calls"):
        sparsifier.step()
    sparsifier.step()


@pytest.mark.parametrize("copied", [True, False])
def test_the_optimizer_may_be_copied_or_replaced(copied):
    model = tagger()
    sparsifier = sparsifier_of(model, torch.optim.Adam(model.parameters()), "set")
    if copied:
        model, sparsifier = copy.deepcopy((model, sparsifier))
    else:
        sparsifier.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = []
    for step in range(9):
        sparsifier.optimizer.zero_grad()
        loss_of(model, batch(step)).backward()
        sparsifier.optimizer.step()
        steps += [update.step for update in [sparsifier.step(), sparsifier.step()] if update]
        off_mask_is_zero(model, sparsifier.optimizer, sparsifier)
    assert steps == [3, 6, 9]
