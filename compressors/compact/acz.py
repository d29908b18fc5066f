"""The compact file (``.acz``): an ONNX file in fewer bytes, without loss.

The numbers of large tensors are cut out of the file and entropy-coded by their bit patterns, so that −0.0 and NaN
survive; what is left is deflated. No runtime reads it: it is for storing and sending. docs/acz.md describes the format.
Needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CompactFileError, UsageError
from . import huffman
from . import onnx_tensors as wire

MAGIC = b"\x89ACZ\r\n\x1a\n"
"""The first bytes; as those of PNG do, they break when a transfer changes line ends or the high bit."""

VERSION = 1
"""Of the format that is written, and the newest that is read."""

SMALLEST = 1024
"""Bytes of the smallest tensor that is coded by itself; smaller ones stay in the structure."""

LONGEST_HEADER = 64 << 20
"""Bytes that a header may have when it is inflated: those of several hundred thousand tensors."""

LARGEST = 2**31
"""Bytes that an ONNX file may have."""

RAW, HUFFMAN = "raw", "huffman"

_PREFIX = struct.Struct("<8sII")
_HASH_SIZE = hashlib.sha256().digest_size
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
    zlib.error,
)
_TYPES = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """One stream: the elements of a tensor, or one byte of each."""

    coding: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor in the header.

    Attributes:
        name: the tensor's.
        type: name of its data type.
        offset: of its first byte in the original file.
        count: its elements; where two numbers share a byte, an element is that byte.
        width: bytes of an element: 1, 2, 4 or 8.
        parts: one, or one for each byte of an element.

    """

    name: str
    type: str
    offset: int
    count: int
    width: int
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a compact file: size and SHA-256 of the original, size of the structure, and the tensors."""

    size: int
    sha256: str
    structure: int
    tensors: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """How a tensor was stored.

    Attributes:
        entry: how it is coded.
        distinct: its different elements.
        entropy: bits that one of its elements needs at least, if each is coded by itself.

    """

    entry: Entry
    distinct: int
    entropy: float

    @property
    def before(self) -> int:
        """Bytes in the original."""
        return self.entry.count * self.entry.width

    @property
    def after(self) -> int:
        """Bytes in the compact file."""
        return sum(part.bytes for part in self.entry.parts)

    @property
    def coding(self) -> str:
        """``palette`` where elements are indices into a codebook, ``bytes`` where their bytes are, or ``raw``."""
        if all(part.coding == RAW for part in self.entry.parts):
            return RAW
        return "palette" if len(self.entry.parts) < self.entry.width else "bytes"


def pack(onnx: bytes) -> bytes:
    """Return the compact form of an ONNX file.

    Raises:
        UsageError: it is no ONNX file, or keeps its weights in another.

    """
    try:
        found = sorted(wire.numbers(onnx), key=lambda tensor: tensor.start)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"What is packed must be one whole ONNX file with its weights inside; {error}. "
            "Weights that lie beside it join it with onnx.save(onnx.load(path), path)."
        ) from error
    entries: list[Entry] = []
    streams: list[bytes] = []
    rest: list[bytes] = []
    last = 0
    for tensor in found:
        if tensor.stop - tensor.start >= SMALLEST:
            entry, coded = _code(tensor, onnx[tensor.start : tensor.stop])
            entries.append(entry)
            streams += coded
            rest.append(onnx[last : tensor.start])
            last = tensor.stop
    structure = zlib.compress(b"".join((*rest, onnx[last:])), 9)
    digest = hashlib.sha256(onnx).hexdigest()
    header = Header(size=len(onnx), sha256=digest, structure=len(structure), tensors=tuple(entries))
    text = zlib.compress(json.dumps(asdict(header), separators=(",", ":")).encode(), 9)
    body = b"".join((_PREFIX.pack(MAGIC, VERSION, len(text)), text, structure, *streams))
    packed = body + hashlib.sha256(body).digest()
    if unpack(packed) != onnx:
        raise AssertionError("a packed file must give the same bytes back")
    return packed


def unpack(packed: bytes) -> bytes:
    """Return the original ONNX file, byte for byte.

    Raises:
        CompactFileError: it is none, is damaged, or was written by a newer version.

    """
    with _whole():
        header, structure, streams = _read(packed)
        rest = inflated(structure, header.size - sum(entry.count * entry.width for entry in header.tensors))
        pieces, at, last = [], 0, 0
        for entry in header.tensors:
            gap = entry.offset - last
            pieces += [rest[at : at + gap], _decode(entry, streams).tobytes()]
            at, last = at + gap, entry.offset + entry.count * entry.width
        onnx = b"".join((*pieces, rest[at:]))
        if len(onnx) != header.size or hashlib.sha256(onnx).hexdigest() != header.sha256:
            raise ValueError("what it holds is not what it says")
    return onnx


def inflated(data: bytes, most: int) -> bytes:
    """Decompress a zlib stream up to a limit, since a few bytes can expand to gigabytes.

    Raises:
        ValueError: it holds more, ends too early, or is followed by something.
        zlib.error: it is none.
    """
    stream = zlib.decompressobj()
    content = stream.decompress(data, max(most, 0) + 1)
    if len(content) > most:
        raise ValueError(f"{len(data):,} deflated bytes hold more than the {most:,} that they may")
    if not stream.eof or stream.unused_data:
        raise ValueError(f"{len(data):,} deflated bytes do not end where they must")
    return content


def stored_bytes(onnx: bytes) -> int:
    """Return the size in bytes of an ONNX file in its compact form."""
    return len(pack(onnx))


def tensors(packed: bytes) -> Iterator[StoredTensor]:
    """Yield how each separately coded tensor was stored.

    Raises:
        CompactFileError: see `unpack`.

    """
    with _whole():
        header, _, streams = _read(packed)
        for entry in header.tensors:
            distinct, counts = huffman.tally(_decode(entry, streams))
            yield StoredTensor(entry=entry, distinct=len(distinct), entropy=huffman.entropy(counts))


def _code(tensor: wire.Numbers, data: bytes) -> tuple[Entry, list[bytes]]:
    """Return a tensor's entry and streams: of whole elements, or of single byte planes if those are shorter."""
    width = max(1, int(tensor.bytes_each)) if len(data) % max(1, tensor.bytes_each) == 0 else 1
    elements = np.frombuffer(data, _TYPES[width])
    ways = [[elements], list(_planes(elements))][: 1 if width == 1 else 2]
    estimates, way = min((([_estimate(stream) for stream in way], way) for way in ways), key=lambda it: sum(it[0]))
    coded = [_shortest(stream, estimate) for stream, estimate in zip(way, estimates, strict=True)]
    entry = Entry(
        name=tensor.name,
        type=tensor.type,
        offset=tensor.start,
        count=len(elements),
        width=width,
        parts=tuple(StoredPart(coding=coding, bytes=len(stream)) for coding, stream in coded),
    )
    return entry, [stream for _, stream in coded]


def _estimate(stream: huffman.Symbols) -> int:
    """Estimate how many bytes a stream takes."""
    _, counts = huffman.tally(stream)
    fits = len(counts) <= 2**huffman.LIMIT
    return min(stream.nbytes, huffman.size(counts, stream.itemsize)) if fits else stream.nbytes


def _shortest(stream: huffman.Symbols, estimate: int) -> tuple[str, bytes]:
    raw = stream.tobytes()
    coded = huffman.encode(stream) if estimate < len(raw) else raw
    return (HUFFMAN, coded) if len(coded) < len(raw) else (RAW, raw)


def _planes(elements: huffman.Symbols) -> Iterator[NDArray[np.uint8]]:
    """Yield each byte of all elements, the lowest first, rotated so that a float's exponent is its top byte."""
    rotated = elements << 1 | elements >> (8 * elements.itemsize - 1)
    for plane in rotated.view(np.uint8).reshape(-1, elements.itemsize).T:
        yield np.ascontiguousarray(plane)


def _decode(entry: Entry, streams: Iterator[bytes]) -> huffman.Symbols:
    """Decode a tensor's elements from the next streams."""
    width = entry.width // len(entry.parts)
    parts = [
        np.frombuffer(stream, _TYPES[width]) if part.coding == RAW else huffman.decode(stream, _TYPES[width])
        for part, stream in zip(entry.parts, streams, strict=False)
    ]
    if any(len(part) != entry.count for part in parts):
        raise ValueError(f"{entry.name!r} has not as many numbers as it says")
    if len(parts) == 1:
        return parts[0]
    rotated: Any = np.stack(parts, 1).reshape(-1).view(_TYPES[entry.width])
    elements: huffman.Symbols = rotated >> 1 | rotated << (8 * entry.width - 1)
    return elements


def _read(packed: bytes) -> tuple[Header, bytes, Iterator[bytes]]:
    """Return header, structure and streams of a compact file after checking its hash."""
    if not packed.startswith(MAGIC) or len(packed) < _PREFIX.size + _HASH_SIZE:
        raise CompactFileError(f"A compact file must begin with {MAGIC!r} and be whole; got {packed[:8]!r}.")
    _, version, size = _PREFIX.unpack_from(packed)
    if version != VERSION:
        raise CompactFileError(f"A compact file must be of version {VERSION}; got {version}. Update autocompress.")
    if hashlib.sha256(packed[:-_HASH_SIZE]).digest() != packed[-_HASH_SIZE:]:
        raise CompactFileError("A compact file must be whole; this one is damaged or cut short. Get it again.")
    end = _PREFIX.size + size
    header = _header(json.loads(inflated(packed[_PREFIX.size : end], LONGEST_HEADER)))
    sizes = [header.structure, *(part.bytes for entry in header.tensors for part in entry.parts)]
    if end + sum(sizes) + _HASH_SIZE != len(packed):
        raise ValueError("its streams have other sizes than it says")
    stops = np.cumsum([end, *sizes]).tolist()
    structure, *streams = (packed[start:stop] for start, stop in itertools.pairwise(stops))
    return header, structure, iter(streams)


def _header(data: Any) -> Header:
    entries = []
    for given in data.pop("tensors"):
        parts = tuple(StoredPart(**part) for part in given.pop("parts"))
        entry = Entry(**given, parts=parts)
        wrong = entry.width not in _TYPES or len(parts) not in (1, entry.width)
        if wrong or any(part.coding not in (RAW, HUFFMAN) or part.bytes < 0 for part in parts):
            raise ValueError(f"{entry.name!r} is coded in no known way")
        entries.append(entry)
    header = Header(**data, tensors=tuple(entries))
    if not 0 <= header.size <= LARGEST:
        raise ValueError(f"it says that it holds {header.size:,} bytes, and an ONNX file has at most {LARGEST:,}")
    return header


@contextmanager
def _whole() -> Iterator[None]:
    """Raise one kind of error for everything that can go wrong while reading."""
    try:
        yield
    except _UNREADABLE as error:
        raise CompactFileError(
            f"A compact file must fit together; of this one, {error}. Pack the model again."
        ) from error
