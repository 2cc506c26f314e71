"""The definition, written as plainly as possible: NumPy's QR of the whole network's AD Jacobian at every step.

This file uses nothing of the package.
"""

import numpy as np
import torch
from torch import nn


def module_jacobians(network, inputs, start, state):
    """Return the whole stack's Jacobians (T, B, D, D) in state order, D = layers * (h or [h, c])."""
    lstm = isinstance(network, nn.LSTM)
    layers, hidden = network.num_layers, network.hidden_size
    parts = 2 if lstm and state == "full" else 1
    by_sequence = []
    for b in range(inputs.shape[1]):
        h, c = (start[0][:, b], start[1][:, b]) if lstm else (start[:, b], None)

        def advance(vector, c, x):
            split = vector.view(layers, parts, hidden)
            h = split[:, 0]
            if not lstm:
                following = network(x[None, None], h[:, None].contiguous())[1][:, 0]
                return following.reshape(-1), (following, None)
            c = split[:, 1] if parts == 2 else c
            h, c = network(x[None, None], (h[:, None].contiguous(), c[:, None].contiguous()))[1]
            followed = torch.stack([h[:, 0], c[:, 0]][:parts], 1)
            return followed.reshape(-1), (h[:, 0], c[:, 0])

        jacobians = []
        for x in inputs[:, b]:
            vector = torch.stack([h, c][:parts], 1).reshape(-1)
            jacobians.append(torch.func.jacrev(lambda v, c=c, x=x: advance(v, c, x)[0])(vector).detach().numpy())
            with torch.no_grad():
                h, c = advance(vector, c, x)[1]
        by_sequence.append(jacobians)
    return np.array(by_sequence).swapaxes(0, 1)


def exponents(jacobians, warmup, order=None):
    """Return each sequence's exponents (B, D) by position; `order` lists the unit vectors of the start basis."""
    steps, batch, size, _ = jacobians.shape
    order = np.arange(size) if order is None else order
    result = np.empty((batch, size))
    for b in range(batch):
        q, logs = np.eye(size), []
        for t in range(steps):
            q, r = np.linalg.qr(jacobians[t, b][np.ix_(order, order)] @ q)
            logs.append(np.log(np.abs(np.diag(r))))
        result[b, order] = np.mean(logs[warmup:], 0)
    return result


def top_layer_first(layers, size):
    """Return the order of the state for which the stack's Jacobian is upper block triangular."""
    return np.arange(layers * size).reshape(layers, size)[::-1].reshape(-1)


def scaled(network, gain):
    """Multiply every parameter by `gain`, so that the Jacobians' rows differ by orders of magnitude."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(gain)
    return network


def trained(cell, hidden=32, steps=250, seed=0):
    """Return a two-layer network trained to repeat the symbol of three steps ago, and an input sequence."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    symbols = 12
    network, embedding, decoder = cell(16, hidden, 2), nn.Embedding(symbols, 16), nn.Linear(hidden, symbols)
    parameters = [*network.parameters(), *embedding.parameters(), *decoder.parameters()]
    for step in range(steps):
        tokens = torch.randint(symbols, (12, 32), generator=generator)
        scores = decoder(network(embedding(tokens))[0])
        loss = nn.functional.cross_entropy(scores[3:].flatten(0, 1), tokens[:-3].flatten())
        with torch.no_grad():  # sign gradient descent learns as fast as Adam here
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(0.01 * (1 - step / steps) * gradient.sign())
    return network, embedding(torch.randint(symbols, (45, 2), generator=generator)).detach()
