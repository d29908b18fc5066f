"""Low-rank approximations of weights, as pure functions over tensors.

A matrix has its best approximation by the singular value decomposition (SVD). A kernel, a tensor (out, in, …) with a
mode for each dimension of its positions, has a Tucker-2 decomposition, which shrinks its channels on both sides, or,
where those are height and width, a canonical polyadic one (CP), a sum of outer products. All are computed in the type
that is given: float32 or float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TUCKER_SWEEPS = 2
"""Sweeps of orthogonal iteration."""

CP_SWEEPS = 15
"""Most sweeps of alternating least squares."""

CP_TOLERANCE = 1e-5
"""Sweeps end when one lowers the relative error by less than this."""

CP_DAMPING = 1e-4
"""How much a step of CP is held back, relative to the mean curvature: it keeps the systems solvable."""


class Matrices(NamedTuple):
    """A weight (out, in) as ``left @ right``: left is (out, rank), right is (rank, in) with orthonormal rows."""

    left: Tensor
    right: Tensor


class Tucker2(NamedTuple):
    """A kernel as a smaller core between two matrices with orthonormal columns.

    Attributes:
        out: (out channels, rank_out).
        core: (rank_out, rank_in, …).
        inner: (in channels, rank_in).

    """

    out: Tensor
    core: Tensor
    inner: Tensor

    def kernel(self) -> Tensor:
        """Return the kernel (out, in, …)."""
        return torch.einsum("or,rq...,iq->oi...", self.out, self.core, self.inner)


class Cp(NamedTuple):
    """A kernel as a sum of outer products of the columns of four factors.

    Attributes:
        out: (out channels, rank), not normalised.
        inner: (in channels, rank), columns of norm 1.
        rows: (height, rank), columns of norm 1.
        columns: (width, rank), columns of norm 1.

    """

    out: Tensor
    inner: Tensor
    rows: Tensor
    columns: Tensor

    def kernel(self) -> Tensor:
        """Return the kernel (out, in, height, width)."""
        return torch.einsum("or,ir,yr,xr->oiyx", *self)


def svd(weight: Tensor, rank: int) -> Matrices:
    """Return the best approximation of a weight (out, in) of a given rank, in the Frobenius norm.

    The error is the root of the sum of the squared singular values left out (Eckart and Young, Psychometrika 1936).

    Raises:
        ValueError: the rank is not within 1 and the smaller side.

    """
    _check("rank", rank, min(weight.shape))
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return Matrices(left[:, :rank] * values[:rank], right[:rank])


def rank_for_energy(values: Tensor, share: float) -> int:
    """Return the smallest rank that keeps a share of the squared singular values; at least 1.

    Args:
        values: singular values (n,), largest first.
        share: between 0 and 1.

    >>> rank_for_energy(torch.tensor([2.0, 1.0, 1.0]), 0.6), rank_for_energy(torch.tensor([2.0, 1.0, 1.0]), 0.7)
    (1, 2)
    """
    energy = values.double().square().cumsum(0)
    enough = energy >= share * energy[-1] * (1 - 1e-12)  # sums of floats: all of them must do for a share of 1
    return 1 + int((~enough).sum())


def mode_values(kernel: Tensor, mode: int) -> Tensor:
    """Return the singular values, largest first, of a tensor unfolded along a mode: its fibres side by side."""
    return _basis(kernel, mode)[0]


def tucker2(kernel: Tensor, rank_out: int, rank_in: int, *, sweeps: int = TUCKER_SWEEPS) -> Tucker2:
    """Return a Tucker-2 decomposition of a kernel (out, in, …) over its channels.

    The bases come from the higher-order SVD and are improved by orthogonal iteration, HOOI (De Lathauwer et al.,
    SIAM J. Matrix Anal. Appl. 21(4), 2000); for convolutions: Kim et al., ICLR 2016, section 3.1.

    Args:
        kernel: float32 or float64.
        rank_out: of the output channels.
        rank_in: of the input channels.
        sweeps: of orthogonal iteration; the error never grows with one.

    Raises:
        ValueError: a rank is not within 1 and the number of channels.

    """
    _check("rank_out", rank_out, kernel.shape[0])
    _check("rank_in", rank_in, kernel.shape[1])
    inner = _basis(kernel, 1)[1][:, :rank_in]
    out = _basis(kernel, 0)[1][:, :rank_out]
    for _ in range(sweeps):
        out = _basis(torch.einsum("oi...,iq->oq...", kernel, inner), 0)[1][:, :rank_out]
        inner = _basis(torch.einsum("oi...,or->ri...", kernel, out), 1)[1][:, :rank_in]
    return Tucker2(out, torch.einsum("oi...,or,iq->rq...", kernel, out, inner), inner)


def cp(kernel: Tensor, rank: int, *, sweeps: int = CP_SWEEPS) -> Cp:
    """Return a canonical polyadic decomposition of a kernel (out, in, height, width) by alternating least squares.

    For convolutions: Lebedev et al., ICLR 2015, section 3. Each mode in turn is solved for, held back a little
    towards where it was (proximal), so that the error does not grow and sums that nearly cancel are bounded. It
    begins with the bases of the higher-order SVD, filled up from a seeded generator: the same each time.

    Args:
        kernel: float32 or float64.
        rank: number of outer products.
        sweeps: over all four modes, at most.

    Raises:
        ValueError: the rank is less than 1.

    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    flat, total = kernel.flatten(1), kernel.norm()
    out, inner, rows, columns = (_start(kernel, mode, rank) for mode in range(4))
    if not total:
        return Cp(torch.zeros_like(out), inner, rows, columns)
    last = float("inf")
    for _ in range(sweeps):
        spread = torch.einsum("ir,yr,xr->iyxr", inner, rows, columns).flatten(0, 2)
        out = _solve(flat @ spread, _gram(inner, rows, columns), out)
        with_out = (flat.T @ out).reshape(*kernel.shape[1:], rank)
        inner = _solve(torch.einsum("iyxr,yr,xr->ir", with_out, rows, columns), _gram(out, rows, columns), inner)
        small = torch.einsum("iyxr,ir->yxr", with_out, inner)
        rows = _solve(torch.einsum("yxr,xr->yr", small, columns), _gram(out, inner, columns), rows)
        columns = _solve(torch.einsum("yxr,yr->xr", small, rows), _gram(out, inner, rows), columns)
        fitted = torch.einsum("yxr,yr,xr->", small, rows, columns)
        square = total.square() - 2 * fitted + _gram(out, inner, rows, columns).sum()
        error = float(square.clamp_min(0).sqrt() / total)
        out, inner, rows, columns = _normalised(out, inner, rows, columns)
        if last - error < CP_TOLERANCE:
            break
        last = error
    return Cp(out, inner, rows, columns)


def _check(name: str, rank: int, largest: int) -> None:
    if not 1 <= rank <= largest:
        raise ValueError(f"{name} must be within 1 and {largest}, got {rank}")


def _basis(tensor: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Return the singular values and the left singular vectors of an unfolded tensor, largest first."""
    flat = tensor.movedim(mode, 0).flatten(1).double()
    squares, vectors = torch.linalg.eigh(flat @ flat.T)  # of the small square matrix: much faster than an SVD
    return squares.flip(0).clamp_min(0).sqrt().to(tensor.dtype), vectors.flip(1).to(tensor.dtype)


def _start(kernel: Tensor, mode: int, rank: int) -> Tensor:
    basis = _basis(kernel, mode)[1][:, :rank]
    generator = torch.Generator().manual_seed(mode)
    more = torch.randn(len(basis), rank - basis.shape[1], generator=generator, dtype=torch.float64)
    both = torch.cat((basis, more.to(basis)), 1)
    return functional.normalize(both, dim=0)


def _gram(*factors: Tensor) -> Tensor:
    """Return the products of all columns with all columns, multiplied over the factors."""
    product = factors[0].T @ factors[0]
    for factor in factors[1:]:
        product = product * (factor.T @ factor)
    return product


def _solve(target: Tensor, gram: Tensor, before: Tensor) -> Tensor:
    """Solve ``factor @ gram ≈ target`` for a factor (n, rank) near its previous value."""
    damping = CP_DAMPING * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    system = gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(system, target + damping * before, left=False)
    return solved


def _normalised(out: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Scale the columns of all factors except the first to norm 1."""
    least = torch.finfo(out.dtype).tiny
    norms = [factor.norm(dim=0).clamp_min(least) for factor in others]
    scaled = [factor / norm for factor, norm in zip(others, norms, strict=True)]
    for norm in norms:
        out = out * norm
    return out, *scaled
