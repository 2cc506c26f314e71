"""Batches and BPTT windows contain every token once, in order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.data.batches import batchify, bptt_windows, random_bptt_lengths, random_bptt_windows


@given(st.integers(4, 200), st.integers(1, 6), st.integers(1, 50))
def test_windows_predict_each_next_token_once(length, batch, bptt):
    tokens = torch.arange(length)
    if length // batch < 2:
        with pytest.raises(ValueError, match="at least two tokens, got"):
            batchify(tokens, batch)
        return
    stream = batchify(tokens, batch)
    found = list(bptt_windows(stream, bptt))
    assert len(found) == -(-(len(stream) - 1) // bptt)
    assert torch.cat([inputs for inputs, _ in found]).equal(stream[:-1])
    assert torch.cat([targets for _, targets in found]).equal(stream[1:])
    assert all(targets.equal(inputs + 1) for inputs, targets in found)  # the next token of the same column


def random_cut(stream, bptt, seed, **options):
    generator = torch.Generator().manual_seed(seed)
    lengths = random_bptt_lengths(len(stream) - 1, bptt, generator=generator, **options)
    return list(random_bptt_windows(stream, bptt, lengths))


@given(st.integers(2, 400), st.integers(1, 80), st.integers(0, 3))
def test_random_windows_predict_each_next_token_once(length, bptt, seed):
    stream = torch.arange(2 * length).view(2, length).t()
    found = random_cut(stream, bptt, seed)
    assert torch.cat([inputs for inputs, _, _ in found]).equal(stream[:-1])
    assert torch.cat([targets for _, targets, _ in found]).equal(stream[1:])
    assert all(len(inputs) for inputs, _, _ in found)
    assert [len(inputs) for inputs, _, _ in random_cut(stream, bptt, seed)] == [len(inputs) for inputs, _, _ in found]


def test_random_lengths_are_normal_around_bptt_or_half_of_it():
    stream = torch.zeros(200_000, 1)
    *found, _ = random_cut(stream, 70, 0)
    lengths = torch.tensor([float(len(inputs)) for inputs, _, _ in found])
    assert [round(70 * factor) for _, _, factor in found] == lengths.tolist()
    halves = lengths < 52  # 3.4 standard deviations from both
    assert abs(float(halves.double().mean()) - 0.05) < 0.013  # 3.2 standard deviations of 3000 draws
    for chosen, base in ((~halves, 70), (halves, 35)):
        assert abs(float(lengths[chosen].mean()) - (base - 0.5)) < 1.5  # int() subtracts half a token on average
        assert abs(float(lengths[chosen].std()) - 5) < 1.2
    *capped, _ = random_cut(stream, 70, 0, max_length=72)
    assert max(len(inputs) for inputs, _, _ in capped) == 72
    *short, _ = random_cut(stream[:2000], 3, 0)
    assert min(len(inputs) for inputs, _, _ in short) == 5
    assert {len(inputs) for inputs, _, _ in random_cut(stream, 70, 0, std=0.0)[:-1]} == {35, 70}
