"""The Lorenz system, integrated here, is forecast by a GRU; a search prunes it. A plain PyTorch loop, to compare."""

import sys
import tempfile

import numpy as np
import torch
from torch.nn.functional import mse_loss

import hyperpruning as hp

SMALL = "--small" in sys.argv
STEPS, EPOCHS, HIDDEN = (600, 3, 8) if SMALL else (4000, 12, 64)


def lorenz(steps, dt=0.02):
    """Return (steps, 3): the fourth-order Runge-Kutta method, every second step, after the transient."""

    def slope(s):
        return np.array([10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]])

    state, found = np.ones(3), []
    for _ in range(2 * steps + 500):
        a = slope(state)
        b = slope(state + dt / 2 * a)
        c = slope(state + dt / 2 * b)
        state = state + dt / 6 * (a + 2 * b + 2 * c + slope(state + dt * c))
        found.append(state)
    return np.array(found)[500::2]


def plain_error(task, seed):
    """Return the test error of the dense network after a plain loop with the same optimizer and schedule."""
    network, (windows, targets), scale = task.network(seed), task.splits.train, task.standardization[1]
    optimizer, generator = torch.optim.AdamW(network.parameters(), lr=0.005), torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * task.steps(0, 0))
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(windows), generator=generator).split(task.batch):
            optimizer.zero_grad()
            mse_loss(network(windows[chosen]) / scale, targets[chosen] / scale).backward()
            optimizer.step()
            schedule.step()
    windows, targets = task.splits.test
    with torch.no_grad():
        return float(mse_loss(network(windows) / scale, targets / scale))


if __name__ == "__main__":
    torch.set_num_threads(1)  # faster for a small network
    task = hp.Forecasting(data=lorenz(STEPS), window=25, horizon=25, hidden=HIDDEN)  # one unit of time each
    space = hp.SearchSpace({"method": ("rigl", "set", "rigl-erk", "mest", "snfs", "selfish-rnn-gates")})
    rounds = {"n_candidates": 6, "rungs": (1, 2), "keep": (3, 2), "spectrum": hp.SpectrumConfig(warmup=5)}
    train = hp.TrainConfig(epochs=EPOCHS, lr=0.005, schedule="cosine")
    plan = hp.Plan(task=task, dense_task=task, train=train, sparsity=0.8, space=space, **rounds)
    history = hp.hyperprune(plan, tempfile.mkdtemp())
    print(f"mean squared error of the test windows; the mean of the series: {task.baseline_loss('test'):.4f}")
    print(f"plain {history.finals['dense'].active:>8,} weights {plain_error(task, 0):.4f}")
    for name in ("dense", "small", *dict.fromkeys(history.winners.values())):  # small: dense, with as many weights
        final, config = history.finals[name], history.candidates[name].config if name in history.candidates else {}
        print(f"{name:<6}{final.active:>8,} weights {final.test_loss:.4f}", config.get("method", ""))
