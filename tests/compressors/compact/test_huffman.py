"""Huffman codes: nothing is lost, and no code is shorter."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.compressors.compact.huffman import (
    FEW,
    LIMIT,
    LONGEST_LANE,
    SHORTER_LANE,
    decode,
    encode,
    entropy,
    lengths,
    size,
    tally,
)

DTYPES = (np.uint8, np.uint16, np.uint32, np.uint64)
SKEWS = (0.0, 0.3, 1.0, 3.0, 20.0)


@st.composite
def streams(draw: st.DrawFn) -> NDArray[Any]:
    """Draw symbols of any width: few or many of them, few or many distinct, alike or very different in number."""
    dtype = draw(st.sampled_from(DTYPES))
    number = draw(st.sampled_from([0, 1, 2, 100, SHORTER_LANE - 1, SHORTER_LANE, SHORTER_LANE + 1, 5000, 20_000]))
    distinct = draw(st.sampled_from([1, 2, 3, 4, 16, 200, 256] if dtype is np.uint8 else [1, 2, 5, 300, 5000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    book = random.choice(2**8, distinct, replace=False) if dtype is np.uint8 else random.integers(0, 2**62, distinct)
    shares = (1.0 + np.arange(distinct)) ** -draw(st.sampled_from(SKEWS))
    return random.choice(book.astype(dtype), number, p=shares / shares.sum())


def shortest(counts: list[int]) -> tuple[int, int]:
    """Return the bits of all symbols in Huffman's own code, whose codewords may have any length, and the longest."""
    heap = [(count, 0) for count in counts]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        (one, deep), (other, deeper) = heapq.heappop(heap), heapq.heappop(heap)
        total += one + other
        heapq.heappush(heap, (one + other, max(deep, deeper) + 1))
    return total, heap[0][1]


@settings(deadline=None)
@given(streams())
def test_symbols_come_back(symbols: NDArray[Any]) -> None:
    """Also of none, of one, and of one that is repeated; the dtype comes back too."""
    found = decode(encode(symbols), symbols.dtype)
    assert found.dtype == symbols.dtype
    np.testing.assert_array_equal(found, symbols)


@pytest.mark.parametrize("number", [FEW - 1, FEW, FEW + LONGEST_LANE + 1, 2**20 + 1])
def test_many_symbols_come_back(number: int) -> None:
    """At the borders of lanes and of what is encoded at a time."""
    symbols = np.random.default_rng(0).geometric(0.3, number).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(symbols), np.uint8), symbols)


def test_as_many_symbols_as_a_code_can_have() -> None:
    """65,536 distinct symbols have codewords of 16 bits; one more is refused."""
    symbols = np.arange(2**LIMIT, dtype=np.uint32) * 3
    assert set(lengths(tally(symbols)[1]).tolist()) == {LIMIT}
    np.testing.assert_array_equal(decode(encode(symbols), np.uint32), symbols)
    with pytest.raises(ValueError, match="between 1 and 65536 symbols, got 65537"):
        encode(np.arange(2**LIMIT + 1, dtype=np.uint32))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 10**9) | st.integers(1, 3), min_size=2, max_size=400))
def test_no_code_is_shorter(counts: list[int]) -> None:
    """The codewords fill the tree, keep the limit, and take what Huffman's take wherever those keep it too."""
    found = lengths(np.array(counts))
    assert found.min() >= 1
    assert found.max() <= LIMIT
    assert sum(2.0**-length for length in found.tolist()) == 1
    total, longest = shortest(counts)
    taken = sum(count * length for count, length in zip(counts, found.tolist(), strict=True))
    assert taken == total if longest <= LIMIT else taken > total
    bits = taken / sum(counts)
    assert entropy(np.array(counts)) - 1e-9 <= bits <= entropy(np.array(counts)) + 1


def test_the_limit_is_kept_where_huffman_would_not() -> None:
    """Counts that double give codewords of every length; with the limit the longest are 16, and few bits are lost."""
    counts = 2 ** np.arange(40, dtype=np.int64)
    assert shortest(counts.tolist())[1] == 39
    found = lengths(counts)
    assert found.max() == LIMIT
    assert float((found * counts).sum() / counts.sum()) < 1.01 * shortest(counts.tolist())[0] / counts.sum()


@settings(deadline=None)
@given(streams().filter(len))
def test_size_is_known_before(symbols: NDArray[Any]) -> None:
    """What the lanes' sizes and the code take beside codewords and codebook is little."""
    estimate, actual = size(tally(symbols)[1], symbols.itemsize), len(encode(symbols))
    assert estimate <= actual <= estimate + 60 + 3 * (len(symbols) // SHORTER_LANE + 1)


@settings(deadline=None, max_examples=150)
@given(streams(), st.data())
def test_damage_is_an_error_or_other_symbols(symbols: NDArray[Any], data: st.DataObject) -> None:
    """Whatever the bytes, decoding ends with a ValueError or with symbols, of no more than eight a byte."""
    coded = bytearray(encode(symbols))
    for _ in range(data.draw(st.integers(1, 3))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(coded[: data.draw(st.integers(0, len(coded)))]) if data.draw(st.booleans()) else bytes(coded)
    try:
        found = decode(damaged, symbols.dtype)
    except ValueError:
        return
    assert len(found) <= 8 * len(damaged)


def test_shorter_bytes_are_refused() -> None:
    """Every beginning of a stream is distinguished from the whole."""
    coded = encode(np.random.default_rng(0).integers(0, 9, 300, np.uint8))
    for end in range(len(coded)):
        with pytest.raises(ValueError, match=r"it ends|its "):
            decode(coded[:end], np.uint8)
