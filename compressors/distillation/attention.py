"""Attention transfer: a student learns to look where its teacher looks.

For convolutions attention is where the activations are large; for transformers it is the attention matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .features import as_deep, same_resolution, spread


def spatial_attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance between spatial attention maps, averaged over the batch; between 0 and 2.

    A map is the sum of squares over channels, scaled to length 1; the finer one is averaged to the other's size.
    (Zagoruyko and Komodakis, ICLR 2017, section 3.1, equation 2.)

    Args:
        student: activations (batch, channels, height, width).
        teacher: the same, where channels and size may differ.

    """
    energies = (x.float().square().sum(1, keepdim=True) for x in (student, teacher))
    ours, theirs = (functional.normalize(x.flatten(1)) for x in same_resolution(*energies))
    return (ours - theirs).square().sum(1).mean()


def matrix_attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of the student's attention from the teacher's, averaged over queries.

    Both are probabilities (…, queries, keys) that sum to 1 over the keys. (Wang et al., MiniLM, NeurIPS 2020,
    section 3.1; there for each head, here for the mean over heads, as a student may have fewer.)
    """
    tiny = torch.finfo(torch.float32).tiny
    ours, theirs = student.float().clamp_min(tiny), teacher.float().clamp_min(tiny)
    return (theirs * (theirs.log() - ours.log())).sum(-1).mean()


def attention_matrix(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(QKᵀ · scale + mask), averaged over heads: (batch, queries, keys).

    Args:
        query: (batch, heads, queries, width), or without heads.
        key: (batch, heads, keys, width); fewer heads are shared by groups of the query's.
        mask: boolean, true where a query may look, or added to the scores; broadcast to (batch, heads, queries, keys).
        causal: whether a query looks at no later key.
        scale: 1/√width by default.

    """
    if query.dim() > 3 and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = (query @ key.mT).float() * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1).nan_to_num(0.0)  # a query that may look nowhere has no attention
    return weights.mean(-3) if weights.dim() > 3 else weights


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Record the matrix of each attention that this thread computes inside the context, with gradients.

    Seen is whatever calls `torch.nn.functional.scaled_dot_product_attention` (timm, Hugging Face's "sdpa") and
    `nn.MultiheadAttention`, which computes its matrix once more, without dropout.
    """
    recorder = _Recorder()
    with recorder:
        yield recorder.found


class _Recorder(TorchFunctionMode):
    """Intercepts the PyTorch functions that this thread calls; this also disables the encoder layers' fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function; record the matrix first if it computes attention."""
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            self.found.append(_matrix_of(*args, **named))
        elif func is functional.multi_head_attention_forward:
            clean = {"training": False, "need_weights": True, "average_attn_weights": True}
            self.found.append(func(*args, **{**named, **clean})[1])
        return func(*args, **named)


def _matrix_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Return the attention matrix for the arguments of `scaled_dot_product_attention`."""
    return attention_matrix(query, key, attn_mask, causal=is_causal, scale=scale)


def paired(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return up to four pairs of matrices with equal shapes and relative depths; the last ones are always included."""
    if not student:
        return []
    pairs = ((student[as_deep(i, len(teacher), len(student))], teacher[i]) for i in spread(len(teacher)))
    return [(ours, theirs) for ours, theirs in pairs if ours.shape == theirs.shape]
