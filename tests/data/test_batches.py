"""Columns and windows read every token once, in order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.data.batches import columns, window_count, windows


@given(st.integers(4, 200), st.integers(1, 6), st.integers(1, 50))
def test_windows_predict_each_next_token_once(length, batch, bptt):
    tokens = torch.arange(length)
    if length // batch < 2:
        with pytest.raises(ValueError, match="two tokens"):
            columns(tokens, batch)
        return
    stream = columns(tokens, batch)
    found = list(windows(stream, bptt))
    assert len(found) == window_count(stream, bptt)
    assert torch.cat([inputs for inputs, _ in found]).equal(stream[:-1])
    assert torch.cat([targets for _, targets in found]).equal(stream[1:])
    assert all(targets.equal(inputs + 1) for inputs, targets in found)  # the token after, of the same column
