"""Recurrent highway layers built from given or random tensors."""

import torch

from hyperpruning.models.rhn import RHNLayer


def highway(w, r, b, kind=RHNLayer):
    """Return the layer with the weights w (G H, I), r (depth, G H, H) and b (depth, G H)."""
    layer = kind(w.shape[1], r.shape[-1], depth=len(r), coupled=len(w) == 2 * r.shape[-1]).to(w)
    for depth, (weight, bias) in enumerate(zip(r, b, strict=True)):
        layer.r[depth].data, layer.b[depth].data = weight, bias
    layer.w.data = w
    return layer.requires_grad_(False)


def random_highway(input_size, hidden, depth, gates, kind=RHNLayer):
    """Return a layer with normally distributed parameters in float64."""
    shapes = (gates * hidden, input_size), (depth, gates * hidden, hidden), (depth, gates * hidden)
    return highway(*(torch.randn(shape).double() for shape in shapes), kind=kind)
