"""Rounding of weights that makes up for its own errors (GPTQ: Frantar et al., ICLR 2023).

The weights of an output are rounded one after another. What that changes of the output is made up for by the weights
that are still to come, in the closed form of Optimal Brain Surgeon (Hassibi and Stork, NeurIPS 1992).
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.1
"""What is added to the diagonal of a Gram matrix, as a share of its mean: weights on few examples must not overfit."""

LEAST = 1e-20
"""Inputs with less power than that are nothing."""

CHUNK = 128
"""Inputs whose errors are passed on to all later ones at once."""


def round_compensated(weight: Tensor, gram: Tensor, step: Tensor, top: int, kept: Tensor | None = None) -> Tensor:
    """Return a weight on its grid that changes the outputs little; the given one if the inputs are no numbers.

    The largest weights of each grid, which decide its step, are rounded for themselves. Zeros stay zeros.

    Args:
        weight: of shape (groups, outputs, inputs).
        gram: the mean of products of two inputs, of shape (groups, inputs, inputs).
        step: of the same shape as the weight.
        top: the largest integer.
        kept: which other weights are rounded for themselves.

    """
    outputs, inputs = weight.shape[1:]
    order = gram.diagonal(dim1=1, dim2=2).argsort(1, descending=True)  # what matters most comes first
    gram = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None].expand_as(gram))
    spread = order[:, None].expand(-1, outputs, -1)
    given, step = weight.gather(2, spread), step.gather(2, spread)
    nearest = (given / step).round().clamp(-top, top) * step
    alone = (given == 0) | (nearest.abs() > (top - 0.5) * step)
    alone = alone if kept is None else alone | kept.gather(2, spread)
    upper = _inverse_root(gram)
    if upper is None:
        return weight
    left, found = given.clone(), nearest.clone()
    for start in range(0, inputs, CHUNK):
        stop = min(start + CHUNK, inputs)
        errors = torch.empty_like(given[:, :, start:stop])
        for i in range(start, stop):
            rounded = (left[:, :, i] / step[:, :, i]).round().clamp(-top, top) * step[:, :, i]
            found[:, :, i] = torch.where(alone[:, :, i], nearest[:, :, i], rounded)
            error = (left[:, :, i] - found[:, :, i]) / upper[:, None, i, i]
            left[:, :, i:stop] -= error[:, :, None] * upper[:, i, None, i:stop]
            errors[:, :, i - start] = error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return torch.empty_like(found).scatter_(2, spread, found)


def _inverse_root(gram: Tensor) -> Tensor | None:
    """Return the upper Cholesky factors of the inverses of damped Gram matrices; None where they are no numbers."""
    power = gram.diagonal(dim1=1, dim2=2).mean(1)
    added = torch.where(power > LEAST, DAMPING * power, 1.0)
    lower, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(added[:, None].expand(-1, gram.shape[1])))
    if failed.any():
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed.any() else upper
