"""Tasks from data: what they derive, and that no sample, no padding and no later time step gets where it must not."""

import math
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import hyperpruning as hp
from hyperpruning.data.corpus import DataError
from hyperpruning.data.samples import as_samples, split_sizes
from hyperpruning.tasks.narrower import weight_count
from hyperpruning.testing import check_task
from hyperpruning.training.pruning import prunable_weights
from hyperpruning.training.task import row_groups_of

CELLS = ("lstm", "gru", "rnn", "rhn")


def sequences(count=60, seed=0):
    """Sequences of 4 to 11 steps with 2 features, whose class is whether the sum of a feature is positive."""
    draw = np.random.default_rng(seed)
    found = [draw.normal(size=(int(length), 2)) for length in draw.integers(4, 12, count)]
    return found, np.array(["up" if one[:, 0].sum() > 0 else "down" for one in found])


def series(steps=200):
    time = np.arange(steps)
    return np.stack([np.sin(time / 3), 5 + 2 * np.cos(time / 5)], 1)


class Reader(nn.Module):
    """A network of one's own, batch first."""

    def __init__(self, hidden=6, inputs=2, outputs=2):
        super().__init__()
        self.rnn, self.out = nn.LSTM(inputs, hidden, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, x, lengths=None):
        outputs = self.rnn(x)[0]
        return self.out(outputs[:, -1] if lengths is None else outputs[torch.arange(len(x)), lengths - 1])


class Packed(Reader):
    """The same with packed sequences."""

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][0][-1])


class OneStep(nn.Module):
    """A network that predicts the last step of a window."""

    def __init__(self, hidden=5):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, hidden), nn.Linear(hidden, 2)

    def forward(self, windows):
        return self.out(self.rnn(windows.transpose(0, 1))[0][-1])


def answer_loss(network, batch):
    return cross_entropy(network(batch[0]), batch[1])


def classification(**options):
    return hp.SequenceClassification(data=sequences(), **({"hidden": 6, "batch": 16} | options))


def forecasting(**options):
    return hp.Forecasting(data=series(), **({"hidden": 6, "window": 12, "horizon": 3} | options))


def own(**options):
    x = torch.randn(50, 7, 2, generator=torch.Generator().manual_seed(0))
    return hp.SupervisedTask(Reader, (x, (x.sum((1, 2)) > 0).long()), answer_loss, **options)


@pytest.mark.parametrize(
    "task",
    [
        classification(),
        classification(cell="rhn", depth=2, pool="mean", standardize=False),
        classification(model=Reader, sizes={"hidden": 8}),
        classification(model=Packed),
        forecasting(hidden=(6, 5), cell="lstm", error="mae"),
        forecasting(horizon=1, model=OneStep, stride=2),
        own(),
    ],
    ids=("gru", "rhn", "module", "packed", "mae", "one-step", "own"),
)
def test_they_keep_what_a_task_promises(task):
    check_task(task)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_padding_has_no_effect(cell, pool):
    """Every sequence alone, without padding, gives what the padded split gives; padding may be anything."""
    task = classification(cell=cell, pool=pool, hidden=(6, 5), layers=2)
    network, (x, y, lengths) = task.network(1).eval(), task.splits.valid
    with torch.no_grad():
        alone = [network(x[one : one + 1, : int(length)]) for one, length in enumerate(lengths)]
        logits = torch.cat(alone)
        torch.testing.assert_close(network(x, lengths), logits)
        beyond = torch.arange(x.shape[1]) >= lengths[:, None]
        torch.testing.assert_close(network(x.masked_fill(beyond[..., None], math.nan), lengths), logits)
    loss, accuracy = task.evaluate(network, "valid")
    assert math.isclose(loss, float(cross_entropy(logits, y)), rel_tol=1e-6)
    assert math.isclose(accuracy, 100 * float((logits.argmax(1) == y).double().mean()))


def test_lists_and_padded_arrays_are_the_same_data():
    listed, labels = sequences()
    lengths = np.array([len(one) for one in listed])
    padded = np.full((len(listed), 20, 2), np.nan)
    for row, one in zip(padded, listed, strict=True):
        row[: len(one)] = one
    given = hp.SequenceClassification(data=(padded, labels, lengths), hidden=6, batch=16)
    other = classification()
    network = other.network(0)
    assert given.network(0).state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, given.network(0).state_dict()[name]) for name, value in network.state_dict().items())
    assert given.evaluate(network, "test") == other.evaluate(network, "test")
    assert given.splits.classes == ("down", "up")


def test_the_inputs_are_standardised_by_the_training_data():
    task = classification()
    mean, scale = task.standardization
    x, _, lengths = task.splits.train
    steps = torch.cat([one[:length] for one, length in zip(x, lengths.tolist(), strict=True)])
    torch.testing.assert_close(mean, steps.mean(0))
    torch.testing.assert_close(scale, steps.std(0, correction=0))
    assert torch.equal(task.network(0).mean, mean)
    constant = hp.SequenceClassification(data=(np.ones((30, 5)), np.arange(30) % 2))
    assert constant.standardization[1].tolist() == [1.0]


def test_the_windows_of_the_splits_have_no_time_step_in_common():
    task = hp.Forecasting(data=np.arange(400.0), window=15, horizon=4, stride=1, standardize=False)
    seen = [
        set(torch.cat([part.flatten() for part in task.splits[split]]).tolist()) for split in ("train", "valid", "test")
    ]
    assert seen == [set(range(280)), set(range(280, 340)), set(range(340, 400))]
    windows, targets = task.splits.valid
    assert torch.equal(targets[:, 0, 0], windows[:, -1, 0] + 1)
    assert (len(windows), windows.shape[1:], targets.shape[1:]) == (60 - 19 + 1, (15, 1), (4, 1))
    train_only = task.standardization, replace(task, standardize=True).standardization
    assert math.isclose(float(train_only[1][0]), sum(range(280)) / 280, rel_tol=1e-6)


def test_a_forecast_of_the_mean_has_the_loss_of_the_baseline():
    for error in ("mse", "mae"):
        task = forecasting(error=error)
        network = task.network(0).eval()
        nn.init.zeros_(network.output.weight)
        nn.init.zeros_(network.output.bias)
        assert math.isclose(task.evaluate(network, "test"), task.baseline_loss("test"), rel_tol=1e-5)
        assert task.metric.name == {"mse": "mean squared error", "mae": "mean absolute error"}[error]
    scaled = hp.Forecasting(data=1000 * series(), hidden=6, window=12, horizon=3)
    assert math.isclose(scaled.baseline_loss("test"), forecasting().baseline_loss("test"), rel_tol=1e-4)


def test_a_classifier_that_knows_the_frequencies_has_the_loss_of_the_baseline():
    task = classification()
    network = task.network(0).eval()
    counts = torch.bincount(task.splits.train[1]) + 1.0
    with torch.no_grad():
        nn.init.zeros_(network.output.weight)
        network.output.bias.copy_(counts.log())
    assert math.isclose(task.evaluate(network, "valid")[0], task.baseline_loss("valid"), rel_tol=1e-6)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_identity_knows_every_value(split):
    x = np.random.default_rng(0).normal(size=(30, 5, 2))
    parts = {
        "train": (x[:20], np.arange(20) % 2),
        "valid": (x[20:25], [0, 1, 0, 1, 0]),
        "test": (x[25:], [1, 0, 1, 0, 1]),
    }
    before = hp.SequenceClassification(data=parts).identity()
    values = parts[split][0].copy()
    values[1, 2, 0] += 1e-3
    assert hp.SequenceClassification(data=parts | {split: (values, parts[split][1])}).identity() != before
    labels = np.array(parts[split][1])
    labels[2] = 1 - labels[2]
    assert hp.SequenceClassification(data=parts | {split: (parts[split][0], labels)}).identity() != before
    assert hp.SequenceClassification(data=parts).identity() == before
    numbers = series()
    changed = numbers.copy()
    changed[{"train": 3, "valid": 150, "test": 199}[split], 1] += 1e-3
    assert hp.Forecasting(data=changed, window=9).identity() != hp.Forecasting(data=numbers, window=9).identity()


def test_the_identity_knows_the_functions_and_the_structure_of_the_network():
    tasks = [
        own(),
        own(sizes={"hidden": 7}),
        classification(),
        classification(model=Reader),
        classification(model=Packed),
    ]
    tasks += [classification(dropout=0.1), forecasting(), forecasting(window=13), forecasting(error="mae")]
    identities = [str(task.identity()) for task in tasks]
    assert len(set(identities)) == len(identities)
    assert " at 0x" not in "".join(identities)


def test_the_samples_are_shuffled_by_seed_and_epoch_alone():
    task = own(batch=8)

    def epoch(number, seed):
        return torch.cat([batch[0] for batch in task.batches(number, seed)])

    assert task.steps(0, 0) == math.ceil(len(task.splits.train[0]) / 8)
    assert torch.equal(epoch(0, 0), epoch(0, 0))
    assert not torch.equal(epoch(0, 0), epoch(1, 0))
    assert not torch.equal(epoch(0, 0), epoch(0, 1))
    assert torch.equal(epoch(0, 0).flatten().sort().values, task.splits.train[0].flatten().sort().values)


def test_the_mean_over_a_split_counts_every_sample_once():
    task, whole = own(eval_batch=3), own(eval_batch=1000)
    network = task.network(0)
    assert math.isclose(task.evaluate(network, "valid"), whole.evaluate(network, "valid"), rel_tol=1e-6)
    assert network.training
    assert torch.is_grad_enabled()


def test_the_probe_is_what_the_recurrent_module_reads():
    for task, shape in (
        (classification(probe_batch=4), (7, 4, 2)),
        (forecasting(probe_batch=5), (12, 5, 2)),
        (own(probe_batch=3), (3, 7, 2)),  # its module is batch first
        (classification(model=Packed, probe_batch=4), (4, 7, 2)),
    ):
        network = task.network(0)
        module, probe = task.recurrence(network)
        assert module is network.rnn
        assert probe.shape == shape
        assert not probe.requires_grad
        assert network.training
        assert len(hp.lyapunov_spectrum(module, probe, warmup=2).exponents) == network.rnn.hidden_size
    x, _, lengths = classification().splits.valid
    probe = classification(probe_batch=4).recurrence(classification(standardize=False).network(0))[1]
    longest = lengths.sort(descending=True).values[:4]
    assert probe.shape == (int(longest.min()), 4, 2)
    assert any(torch.equal(probe[:, 0], one[: len(probe)]) for one in x)


def test_several_recurrent_modules_or_none_are_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above, self.out = (
                nn.GRU(2, 4, batch_first=True),
                nn.GRU(4, 3, batch_first=True),
                nn.Linear(3, 2),
            )

        def forward(self, x):
            return self.out(self.above(self.below(x)[0])[0][:, -1])

    task = replace(own(), model=Two)
    with pytest.raises(
        ValueError, match=r"must have one recurrent module, got below, above in a Two. Name one of them"
    ):
        task.recurrence(task.network(0))
    module, probe = replace(task, recurrent="above").recurrence(task.network(0))
    assert (module.hidden_size, probe.shape) == (3, (8, 7, 4))
    with pytest.raises(ValueError, match=r"must name a module of the network, got 'abov'. Did you mean 'above'"):
        replace(task, recurrent="abov").recurrence(task.network(0))
    linear = replace(own(), model=nn.Linear, sizes={"in_features": 2, "out_features": 2})
    with pytest.raises(ValueError, match=r"got none in a Linear. Give recurrent = a function of"):
        linear.recurrence(linear.network(0))


def test_a_task_travels_with_its_data_once():
    task = classification()
    _ = task.identity(), task.splits
    copy = pickle.loads(pickle.dumps(task))
    assert copy.identity() == task.identity()
    assert copy.evaluate(task.network(0), "valid") == task.evaluate(task.network(0), "valid")
    assert len(pickle.dumps(task)) < 1.5 * len(pickle.dumps(classification()))


def load():
    x = torch.randn(40, 5, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0, 0] > 0).long()


def test_data_may_be_a_function_or_a_data_set():
    task = hp.SupervisedTask(Reader, load, answer_loss)
    x, y = load()
    listed = hp.SupervisedTask(Reader, torch.utils.data.TensorDataset(x, y), answer_loss)
    assert (
        task.identity()
        == listed.identity()
        == hp.SupervisedTask(Reader, (x.numpy(), y.numpy()), answer_loss).identity()
    )
    assert len(pickle.dumps(task)) < 2000


def test_the_narrower_network_is_the_widest_with_so_many_weights():
    for task in (classification(hidden=(20, 10)), forecasting(hidden=16), own(sizes={"hidden": 16})):
        whole = weight_count(task.network(0))
        narrow = task.narrower(whole // 3)
        count = weight_count(narrow.network(0))
        assert 0.6 * (whole // 3) < count <= whole // 3
        assert prunable_weights(narrow, narrow.network(0), hp.TrainConfig()) == count
        assert weight_count(task.narrower(whole).network(0)) == whole
    assert own().narrower is None
    assert classification(model=Reader).narrower is None


def test_gates_come_from_the_modules():
    assert set(row_groups_of(own(), own().network(0)).values()) == {4}
    assert set(row_groups_of(classification(cell="rhn"), classification(cell="rhn").network(0)).values()) == {2}


@dataclass(frozen=True)
class Metrics:
    accuracy = hp.Metric("accuracy", "%", None, True)


def accuracy(network, batch):
    return 100 * (network(batch[0]).argmax(1) == batch[1]).float().mean()


def test_a_metric_of_ones_own():
    task = own(metric=Metrics.accuracy, metric_fn=accuracy)
    network = task.network(0)
    loss, found = task.evaluate(network, "test")
    assert math.isclose(found, float(accuracy(network, task.splits.test)), rel_tol=1e-5)
    assert loss == own().evaluate(network, "test")
    with pytest.raises(ValueError, match="metric_fn must be given if and only if the metric has from_loss=None"):
        own(metric_fn=accuracy)


X, Y = np.zeros((20, 4, 2)), np.arange(20) % 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: own(batch=0), "batch must be at least 1"),
        (lambda: replace(own(), model=Reader()), "model must be a function or a class, got a Reader. Give its class"),
        (lambda: replace(own(), data=X), "Samples must be a tuple of arrays such as"),
        (lambda: replace(own(), data=(X, Y[:3])), r"the same number of samples, at least 1, got \[20, 3\]"),
        (lambda: replace(own(), data={"train": (X, Y)}), "must have the splits train, valid, test, got train"),
        (lambda: replace(own(), data=(X, ["a"] * 20)), "Array 1 of the samples must be an array of numbers"),
        (lambda: own(fractions=(0.5, 0.2, 0.2)), "fractions must be three numbers that add up to 1"),
        (lambda: own(fractions=(0.98, 0.01, 0.01)), r"must have at least one sample, got \[49, 1, 0\] of 50"),
        (lambda: replace(classification(), data=(X * np.nan, Y)), "Sequences must be finite, got NaN"),
        (lambda: replace(classification(), data=(X, Y * 0)), r"at least two classes, got \[0\]"),
        (lambda: replace(classification(), data=(X, Y, Y)), "Lengths must be whole numbers from 1 to 4"),
        (lambda: replace(classification(), data=(X, X)), "Labels must be one number or name for each of the 20"),
        (lambda: replace(classification(), data=(X[..., None], Y)), r"Sequences must have the shape \(N, time steps,"),
        (lambda: replace(classification(), data=None).steps(0, 0), "must have data, got none. Set file in .data."),
        (lambda: classification(file="x.npz"), "data must be left out with a file"),
        (lambda: replace(forecasting(), data=np.zeros((5, 2, 2))), "A series must have the shape"),
        (lambda: forecasting(window=100), "The valid series must have at least window . horizon = 103 time steps"),
        (lambda: classification(cell="grru"), "Did you mean 'gru'"),
        (lambda: classification(depth=2).check_model(), "depth must be 1 unless the cell is a recurrent highway layer"),
        (lambda: forecasting(hidden=(4, 4), layers=3).check_model(), "layers must equal the number of widths"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_model_that_returns_another_shape_is_a_sentence():
    task = forecasting(model=OneStep)
    with pytest.raises(ValueError, match=r"must return the shape \(31, 3, 2\), got \(31, 2\)"):
        task.evaluate(task.network(0), "valid") if len(task.splits.valid[0]) == 31 else task.loss(
            task.network(0), tuple(part[:31] for part in task.splits.train), None
        )


def test_the_sizes_of_splits_add_up():
    assert split_sizes(101, (0.7, 0.15, 0.15)) == [71, 15, 15]
    with pytest.raises(DataError, match="Every split"):
        split_sizes(2, (0.7, 0.15, 0.15))
    assert as_samples(([[1.0], [2.0]], [1, 2]))[0].dtype == torch.float32


def test_a_user_may_use_mse():
    x = torch.randn(40, 6, 2)
    task = hp.SupervisedTask(Reader, (x, x.mean(1)), lambda network, batch: mse_loss(network(batch[0]), batch[1]))
    assert math.isfinite(task.evaluate(task.network(0), "valid"))


def test_a_loss_of_two_tensors_says_how_it_is_called():
    data = torch.randn(60, 12, 2), torch.randn(60)
    task = hp.SupervisedTask(Reader, data, torch.nn.functional.huber_loss)
    with pytest.raises(TypeError, match=r"loss_fn must work as loss_fn\(network, batch\), got: .* Write a function"):
        task.loss(task.network(0), next(iter(task.batches(0, 0))), None)


def test_a_recurrent_function_returns_a_part_and_its_inputs():
    data = torch.randn(60, 12, 2), torch.randn(60)
    task = hp.SupervisedTask(Reader, data, answer_loss, recurrent=three_values)
    with pytest.raises(ValueError, match=r"recurrent must return .* got 3 values"):
        task.recurrence(task.network(0))


def three_values(network, batch):
    return network, batch[0], None
