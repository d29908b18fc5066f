"""Low-rank approximations: exact where they can be, best where that is known, and never worse with more rank."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compressors.lowrank.decompositions import cp, mode_values, rank_for_energy, svd, tucker2

SIZES = st.integers(1, 9)
DTYPES = st.sampled_from([torch.float32, torch.float64])


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def error(approximation: Tensor, tensor: Tensor) -> float:
    """Return the relative error in the Frobenius norm."""
    return float((approximation - tensor).norm() / tensor.norm())


@st.composite
def kernels(draw: st.DrawFn) -> Tensor:
    """Draw a kernel (out, in, height, width)."""
    size = st.integers(1, 3)
    shape = draw(st.tuples(SIZES, SIZES, size, size))
    return random(*shape, seed=draw(st.integers(0, 999)), dtype=draw(DTYPES))


@settings(deadline=None, max_examples=30)
@given(SIZES, SIZES, st.integers(0, 999), DTYPES)
def test_svd_has_the_smallest_error_there_is(out: int, inner: int, seed: int, dtype: torch.dtype) -> None:
    """The error is that of Eckart and Young at each rank: it never grows, and is nothing at full rank."""
    weight = random(out, inner, seed=seed, dtype=dtype)
    values = torch.linalg.svdvals(weight)
    for rank in range(1, min(out, inner) + 1):
        left, right = svd(weight, rank)
        assert left.shape == (out, rank)
        assert right.shape == (rank, inner)
        assert left.dtype == right.dtype == dtype
        torch.testing.assert_close((weight - left @ right).norm(), values[rank:].norm(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(right @ right.T, torch.eye(rank, dtype=dtype))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0, 1))
def test_rank_for_energy_is_the_smallest_that_keeps_the_share(values: list[float], share: float) -> None:
    """The share is kept with the rank, and not with one less; squares add up to all of it at full rank."""
    ordered = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    squares = ordered.square()
    rank = rank_for_energy(ordered, share)
    assert 1 <= rank <= len(values)
    assert squares[:rank].sum() >= share * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()


@settings(deadline=None, max_examples=30)
@given(kernels())
def test_energies_of_every_mode_add_up_to_that_of_the_kernel(kernel: Tensor) -> None:
    """Unfolding moves numbers about; their squares stay."""
    for mode in range(4):
        values = mode_values(kernel, mode)
        assert len(values) == kernel.shape[mode]
        assert (values.diff() <= 1e-6).all()
        torch.testing.assert_close(values.square().sum(), kernel.square().sum(), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(kernels())
def test_tucker_is_exact_at_full_rank(kernel: Tensor) -> None:
    """With as many channels as there are, the kernel comes back."""
    whole = tucker2(kernel, *kernel.shape[:2])
    torch.testing.assert_close(whole.kernel(), kernel, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(kernels(), st.data())
def test_tucker_loses_no_more_than_the_modes_leave_out(kernel: Tensor, data: st.DataObject) -> None:
    """Its error is within what HOSVD promises, and orthogonal iteration only lowers it."""
    rank_out, rank_in = (data.draw(st.integers(1, n)) for n in kernel.shape[:2])
    losses = [
        float((kernel - tucker2(kernel, rank_out, rank_in, sweeps=sweeps).kernel()).square().sum())
        for sweeps in range(4)
    ]
    left_out = sum(float(mode_values(kernel, mode)[r:].square().sum()) for mode, r in enumerate((rank_out, rank_in)))
    slack = 1e-5 * float(kernel.square().sum())
    assert losses[0] <= left_out + slack
    assert all(after <= before + slack for before, after in pairwise(losses))


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 9), st.integers(3, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999))
def test_tucker_finds_a_planted_core(out: int, inner: int, rank_out: int, rank_in: int, seed: int) -> None:
    """A kernel whose channels have those ranks is kept as it is, between orthonormal columns."""
    core = random(rank_out, rank_in, 3, 3, seed=seed)
    planted = torch.einsum("or,rqyx,iq->oiyx", random(out, rank_out, seed=1), core, random(inner, rank_in, seed=2))
    found = tucker2(planted, rank_out, rank_in)
    assert found.core.shape == core.shape
    assert error(found.kernel(), planted) < 1e-6
    for basis in (found.out, found.inner):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 11), st.integers(3, 11), st.integers(1, 3), st.integers(0, 9999), DTYPES)
def test_cp_finds_planted_products(out: int, inner: int, rank: int, seed: int, dtype: torch.dtype) -> None:
    """A kernel that is a sum of a few orthogonal outer products is kept."""
    factors = [
        torch.linalg.qr(random(n, rank, seed=seed + i, dtype=dtype))[0] for i, n in enumerate((out, inner, 3, 3))
    ]
    planted = torch.einsum("r,or,ir,yr,xr->oiyx", torch.arange(1, rank + 1, dtype=dtype), *factors)
    found = cp(planted, rank, sweeps=200)
    assert [factor.shape for factor in found] == [(out, rank), (inner, rank), (3, rank), (3, rank)]
    assert error(found.kernel(), planted) < 1e-2


@settings(deadline=None, max_examples=20)
@given(kernels(), st.integers(1, 12))
def test_cp_gets_no_worse_by_sweeping(kernel: Tensor, rank: int) -> None:
    """Its error is never more than nothing would have, falls with sweeps, and its numbers stay finite."""
    errors = [error(cp(kernel, rank, sweeps=sweeps).kernel(), kernel) for sweeps in (1, 4, 16)]
    assert errors[0] <= 1 + 1e-4
    assert errors[2] <= errors[1] + 1e-4 <= errors[0] + 2e-4


def test_decompositions_repeat_themselves() -> None:
    """The same kernel gives the same factors to the bit, whatever was drawn in between."""
    kernel = random(8, 6, 3, 3, seed=0)
    once = (*tucker2(kernel, 3, 4), *cp(kernel, 10), *svd(kernel.flatten(1), 3))
    torch.rand(3)
    again = (*tucker2(kernel, 3, 4), *cp(kernel, 10), *svd(kernel.flatten(1), 3))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_zero_kernel_has_zero_factors() -> None:
    """Nothing becomes nothing, not NaN."""
    kernel = torch.zeros(4, 4, 3, 3)
    for made in (tucker2(kernel, 2, 2).kernel(), cp(kernel, 2).kernel()):
        torch.testing.assert_close(made, kernel)
    assert rank_for_energy(torch.zeros(3), 0.9) == 1


@pytest.mark.parametrize("rank", [0, 5])
def test_impossible_ranks_are_refused(rank: int) -> None:
    """A rank that the sides do not allow is named in the message."""
    with pytest.raises(ValueError, match=f"rank must be within 1 and 4, got {rank}"):
        svd(torch.ones(4, 6), rank)
    with pytest.raises(ValueError, match=f"rank_in must be within 1 and 4, got {rank}"):
        tucker2(torch.ones(6, 4, 3, 3), 2, rank)
    with pytest.raises(ValueError, match="at least 1"):
        cp(torch.ones(4, 4, 3, 3), min(rank, 0))
