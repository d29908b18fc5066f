"""Canonical, length-limited Huffman code over NumPy symbols, in lanes that are decoded in parallel.

The shortest prefix code (Huffman, Proc. IRE 1952) with no codeword over 16 bits, found by package-merge (Larmore and
Hirschberg, J. ACM 1990). The code is canonical: how many codewords there are of each length tells all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike, NDArray

LIMIT = 16
"""Bits of the longest codeword."""

LONGEST_LANE = 4096
"""Symbols of a lane at most. A lane is a run that begins at a whole byte, so that all are decoded at the same time."""

SHORTER_LANE, FEW = 1024, 2**18
"""Symbols of a lane where there are few symbols, so that there are lanes enough."""

CHUNK = 2**20
"""Symbols that are encoded together, which bounds the memory."""

Symbols = NDArray[np.unsignedinteger]
Integers = NDArray[np.int64]


def lengths(counts: NDArray[np.integer]) -> Integers:
    """Return the optimal codeword length in bits of each symbol, at most `LIMIT`.

    Package-merge: a symbol's bits are the number of levels at which it is among the cheapest coins.

    Args:
        counts: how often each symbol occurs, each at least once; at most ``2**LIMIT`` symbols, of shape (n,).

    >>> lengths(np.array([8, 4, 2, 1])).tolist(), lengths(np.array([7])).tolist()
    ([1, 2, 3, 3], [1])
    """
    number = len(counts)
    if not 0 < number <= 2**LIMIT:
        raise ValueError(f"a code has between 1 and {2**LIMIT} symbols, got {number}")
    if number == 1:
        return np.ones(1, np.int64)
    order = np.argsort(counts, kind="stable")
    coins = counts[order].astype(np.int64)
    row, levels = coins, [np.ones(number, np.bool_)]
    for _ in range(LIMIT - 1):
        packages = row[: len(row) // 2 * 2].reshape(-1, 2).sum(1)
        merged = np.concatenate((coins, packages))
        by_cost = np.argsort(merged, kind="stable")
        row = merged[by_cost]
        levels.append(by_cost < number)
    taken, sizes = 2 * number - 2, np.zeros(number, np.int64)
    for is_coin in reversed(levels):
        bought = int(is_coin[:taken].sum())
        sizes[:bought] += 1
        taken = 2 * (min(taken, len(is_coin)) - bought)
    found = np.empty(number, np.int64)
    found[order] = sizes
    return found


def tally(symbols: Symbols) -> tuple[Symbols, Integers]:
    """Return the distinct values of symbols of shape (n,), in order, and how often each occurs."""
    if symbols.itemsize > 1:
        distinct, counts = np.unique(symbols, return_counts=True)
        return distinct, counts
    counts = np.bincount(symbols, minlength=256)
    found = np.flatnonzero(counts)
    return found.astype(symbols.dtype), counts[found]


def size(counts: NDArray[np.integer], itemsize: int) -> int:
    """Estimate the bytes that symbols with these counts take: codewords and codebook, without the lanes' sizes."""
    return int((counts * lengths(counts)).sum()) // 8 + itemsize * len(counts)


def entropy(counts: NDArray[np.integer]) -> float:
    """Return the entropy of symbols with these counts, in bits for one symbol (Shannon, 1948, section 6).

    >>> entropy(np.array([2, 1, 1]))
    1.5
    """
    shares = counts / counts.sum()
    return float((shares * -np.log2(shares)).sum())


def encode(symbols: Symbols) -> bytes:
    """Return symbols as their code and their codewords; docs/acz.md describes the bytes.

    Args:
        symbols: unsigned integers of shape (n,), of at most ``2**LIMIT`` distinct values.

    """
    distinct, counts = tally(symbols)
    if not len(distinct):
        return bytes(LIMIT + 2)
    sizes = lengths(counts)
    order = np.argsort(sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sizes = sizes[order]
    codes = _first_bits(sizes) >> (LIMIT - sizes)
    if symbols.itemsize == 1:
        table = np.zeros(256, np.int64)
        table[distinct] = rank
        ranks = table[symbols]
    else:
        ranks = rank[np.searchsorted(distinct, symbols)]
    lane = SHORTER_LANE if len(symbols) < FEW else LONGEST_LANE
    chunks = (ranks[start : start + CHUNK] for start in range(0, len(ranks), CHUNK))
    parts = [_pack(codes[chunk], sizes[chunk], lane) for chunk in chunks]
    head = [_varint(len(symbols)), _varint(lane), *map(_varint, np.bincount(sizes, minlength=LIMIT + 1)[1:].tolist())]
    book = distinct[order].astype(distinct.dtype.newbyteorder("<")).tobytes()
    return b"".join((*head, book, *(ends for ends, _ in parts), *(bits for _, bits in parts)))


def decode(data: bytes, dtype: DTypeLike) -> Symbols:
    """Return the symbols of `encode`.

    Args:
        data: the bytes of `encode`, no more and no less.
        dtype: of the symbols.

    Raises:
        ValueError: the bytes are not what `encode` returns.

    """
    (number, lane, *counts), start = _varints(data, LIMIT + 2)
    sizes = np.repeat(np.arange(1, LIMIT + 1), counts) if sum(counts) <= 2**LIMIT else np.zeros(0, np.int64)
    spans = 1 << (LIMIT - sizes)
    if bool(number) != bool(len(sizes)) or spans.sum() > 2**LIMIT:
        raise ValueError("its counts of codewords are those of no code")
    if bool(number) != bool(lane) or lane > LONGEST_LANE:
        raise ValueError(f"its lanes have {lane} symbols")
    lanes = -(-number // lane) if lane else 0
    stored = np.dtype(dtype).newbyteorder("<")
    sized = (stored.itemsize * len(sizes), 2 * lanes)
    if len(data) < start + sum(sized):
        raise ValueError("it ends too early")
    book: Symbols = np.frombuffer(data, stored, len(sizes), start).astype(dtype)
    ends = np.cumsum(np.frombuffer(data, "<u2", lanes, start + sized[0]), dtype=np.int64)
    bits = np.frombuffer(data, np.uint8, offset=start + sum(sized))
    if len(bits) != (ends[-1] if lanes else 0) or number > 8 * len(bits):
        raise ValueError("its lanes have other sizes than it says")
    if not number:
        return book
    return book[_unpack(bits, ends, sizes, number, lane)]


def _first_bits(sizes: Integers) -> Integers:
    """Return the canonical codewords, shortest first, each in the high bits of `LIMIT`."""
    spans = 1 << (LIMIT - sizes)
    before: Integers = np.cumsum(spans) - spans
    return before


def _pack(codes: Integers, sizes: Integers, lane: int) -> tuple[bytes, bytes]:
    """Return the bytes that each lane takes, two bytes a lane, and the lanes, their last byte filled with zeros."""
    laid = np.zeros((-(-len(codes) // lane), lane), np.int64)
    laid.reshape(-1)[: len(sizes)] = sizes
    ends = np.cumsum(laid, 1)
    taken = -(-ends[:, -1] // 8)
    begins = (np.cumsum(taken) - taken) * 8
    at = (begins[:, None] + ends - laid).reshape(-1)[: len(codes)]
    wide, byte = codes << (24 - (at & 7) - sizes), at >> 3  # a codeword touches three bytes at most
    total = np.zeros(int(taken.sum()) + 2)
    for offset in range(3):
        total += np.bincount(byte + offset, wide >> (16 - 8 * offset) & 255, len(total))  # bits never overlap
    return taken.astype("<u2").tobytes(), total[:-2].astype(np.uint8).tobytes()


def _unpack(bits: NDArray[np.uint8], ends: Integers, sizes: Integers, number: int, lane: int) -> NDArray[np.uint16]:
    """Return the ranks of all codewords, of shape (number,): one codeword of every lane at a time."""
    longest = int(sizes[-1])
    spans = 1 << (longest - sizes)
    table = np.zeros(1 << longest, np.uint32)  # an entry without a codeword has no length, and stands still
    table[: spans.sum()] = np.repeat(np.arange(len(sizes), dtype=np.uint32) << 5 | sizes.astype(np.uint32), spans)
    padded = np.concatenate((bits, np.zeros(lane * LIMIT // 8 + 3, np.uint8))).astype(np.uint32)
    windows = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    mask, shift = np.uint32(len(table) - 1), 24 - longest
    positions = np.concatenate((np.zeros(1, np.int64), ends[:-1])) * 8
    last = number - (len(ends) - 1) * lane
    ranks = np.zeros((min(lane, number), len(ends)), np.uint16)
    for step in range(len(ranks)):
        live = positions if step < last else positions[:-1]
        entries = table[windows.take(live >> 3) >> (shift - (live & 7)).astype(np.uint32) & mask]
        ranks[step, : len(live)] = entries >> 5
        live += entries & 31
    if not np.array_equal(-(-positions // 8), ends):
        raise ValueError("its codewords do not end where their lanes do")
    return ranks.T.reshape(-1)[:number]


def _varint(number: int) -> bytes:
    """Return a number in LEB128: seven bits a byte, the lowest first, the high bit set in all bytes but the last."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _varints(data: bytes, count: int) -> tuple[list[int], int]:
    """Decode `count` numbers in LEB128; return them and the position after them."""
    source = iter(data)
    numbers = [_read(source) for _ in range(count)]
    return numbers, sum(len(_varint(number)) for number in numbers)


def _read(source: Iterator[int]) -> int:
    number = 0
    for place, byte in zip(range(5), source, strict=False):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            if place and not byte:
                break
            return number
    raise ValueError("its numbers are broken")
