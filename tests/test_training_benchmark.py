"""benchmarks/training.py compares like with like."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hyperpruning.training.config import TrainConfig
from training import Plain, plain_loop


class Looks(TorchDispatchMode):
    """Counts how often a number is asked for, for which a GPU is waited for."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "local_scalar" in operation.__name__
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("cell", "autocast"), [("lstm", False), ("rhn", True)])
def test_the_plain_loop_looks_once_a_turn_and_leaves_its_lstm_out_of_bf16(cell, autocast):
    model, seen = Plain(7, embedding=4, hidden=4, cell=cell), []
    model.rnn.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    tokens = torch.randint(7, (4, 5, 2))
    batches = [(tokens[number], tokens[number]) for number in range(4)]
    turn = plain_loop(model, TrainConfig(lr=0.1, max_grad_norm=0.25, device="cpu", precision="bf16"), batches)
    with Looks() as looks:
        turn()
    assert looks.count == 1
    assert seen == [autocast] * 4
