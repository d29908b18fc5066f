"""Locates the numbers of tensors in the bytes of an ONNX file, without onnx or protobuf.

Protocol Buffers are fields, one after the other: a key (number and wire type) and a value
(https://protobuf.dev/programming-guides/encoding). The numbers below are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5

MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The fields of each message that hold messages with tensors in them."""

DATA_TYPE, NAME, RAW_DATA, DATA_LOCATION = 2, 8, 9, 14
TYPED_DATA = {4: 4, 5: 1, 7: 1, 10: 8, 11: 1}
"""Fields of a tensor that hold its numbers by type, with the bytes of one; of integers that vary in length, 1."""

TYPES: Mapping[int, tuple[str, float]] = {
    **{1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4)},
    **{7: ("int64", 8), 9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8), 12: ("uint32", 4), 13: ("uint64", 8)},
    **{16: ("bfloat16", 2), 17: ("float8", 1), 18: ("float8", 1), 19: ("float8", 1), 20: ("float8", 1)},
    **{21: ("uint4", 0.5), 22: ("int4", 0.5), 23: ("float4", 0.5)},
}
"""Name and bytes of one number of each data type."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of a tensor in a file.

    Attributes:
        name: the tensor's; empty where it has none.
        type: name of its data type.
        bytes_each: of one number, 0.5 where a byte holds two.
        start: their first byte in the file.
        stop: the byte after them.

    """

    name: str
    type: str
    bytes_each: float
    start: int
    stop: int


def numbers(model: bytes) -> Iterator[Numbers]:
    """Yield the numbers of all tensors that an ONNX file stores contiguously, in the order of the file.

    Raises:
        ValueError: the bytes are no ONNX model, or it keeps the numbers of a tensor in another file.

    """
    if 7 not in {number for number, *_ in _fields(model, 0, len(model))}:
        raise ValueError("it has no graph")
    yield from _walk(model, "model", 0, len(model))


def _walk(model: bytes, message: str, start: int, stop: int) -> Iterator[Numbers]:
    for number, wire, begin, end in _fields(model, start, stop):
        inner = MESSAGES[message].get(number)
        if inner is None or wire != DELIMITED:
            continue
        yield from _tensor(model, begin, end) if inner == "tensor" else _walk(model, inner, begin, end)


def _tensor(model: bytes, start: int, stop: int) -> Iterator[Numbers]:
    fields = list(_fields(model, start, stop))
    values = {number: model[begin:end] for number, _, begin, end in fields if number in (DATA_TYPE, NAME)}
    name = values.get(NAME, b"").decode(errors="replace")
    kind, size = TYPES.get(_number(values.get(DATA_TYPE, b"\0"), 0)[0], ("other", 1))
    if any(number == DATA_LOCATION and model[begin:end] == b"\1" for number, _, begin, end in fields):
        raise ValueError(f"it keeps the numbers of {name!r} in a file beside it")
    for number, wire, begin, end in fields:
        if wire == DELIMITED and (number == RAW_DATA or number in TYPED_DATA):
            each = size if number == RAW_DATA else TYPED_DATA[number]
            yield Numbers(name=name, type=kind, bytes_each=each, start=begin, stop=end)


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, first byte and the byte after the value of each field of a message."""
    while start < stop:
        key, begin = _number(data, start)
        wire = key & 7
        if wire == VARINT:
            end = _number(data, begin)[1]
        elif wire in (FIXED32, FIXED64):
            end = begin + (4 if wire == FIXED32 else 8)
        elif wire == DELIMITED:
            size, begin = _number(data, begin)
            end = begin + size
        else:
            raise ValueError(f"byte {start} begins no field")
        if end > stop or not key >> 3:
            raise ValueError(f"the field at byte {start} ends outside of its message")
        yield key >> 3, wire, begin, end
        start = end


def _number(data: bytes, start: int) -> tuple[int, int]:
    """Return the number in LEB128 at a byte, and the byte after it."""
    number = 0
    for place, byte in enumerate(data[start : start + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, start + place + 1
    raise ValueError(f"byte {start} begins no number")
