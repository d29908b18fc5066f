"""The compact file: the same bytes come back, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.compressors.compact.acz import MAGIC, VERSION, pack, stored_bytes, tensors, unpack
from autocompress.errors import CompactFileError, UsageError

DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int32", "int64", "uint16", "bool")
PREFIX = len(MAGIC) + 8


def constant(random: np.random.Generator, dtype: str, number: int, distinct: int | None) -> NDArray[np.generic]:
    """Return random bit patterns, NaN and −0.0 among them; of so many different ones, or any."""
    bits = random.integers(0, 256, (number, np.dtype(dtype).itemsize), np.uint8)
    if distinct:
        bits = bits[random.integers(0, min(distinct, number), number)] if number else bits
    return (bits[:, 0] & 1).astype(bool) if dtype == "bool" else bits.reshape(-1).view(dtype)


def graph(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    """Return a graph with constants that nothing reads."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return helper.make_graph([*nodes, helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y], list(initializers))


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Draw an ONNX file: initializers as raw bytes or by type, constants in nodes and in subgraphs."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = []
    for i in range(draw(st.integers(0, 4))):
        dtype, number = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0, 1, 60, 1024, 1500, 5000]))
        value = constant(random, dtype, number, draw(st.sampled_from([None, 1, 2, 16])))
        if draw(st.booleans()) or not number or dtype == "float16":
            made.append(numpy_helper.from_array(value, f"w{i}"))
        else:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            made.append(helper.make_tensor(f"w{i}", kind, value.shape, value))
    split = draw(st.integers(0, len(made)))
    inside = [helper.make_node("Constant", [], [f"c{i}"], value=tensor) for i, tensor in enumerate(made[split:])]
    nodes = tuple(inside)
    if draw(st.booleans()):
        nodes = (
            helper.make_node("If", ["x"], ["z"], then_branch=graph(nodes=nodes), else_branch=graph(*made[split:])),
        )
    return helper.make_model(graph(*made[:split], nodes=nodes)).SerializeToString()


def sealed(body: bytes) -> bytes:
    """Return a file with the hash of its content behind it, as if it were written so."""
    return body + hashlib.sha256(body).digest()


@settings(deadline=None, max_examples=60)
@given(models())
def test_the_same_bytes_come_back(model: bytes) -> None:
    """Whatever the types of the constants, where they stand, and however they were serialised."""
    packed = pack(model)
    assert unpack(packed) == model
    assert len(packed) < len(model) + 2000


@pytest.fixture(scope="module")
def model() -> bytes:
    """Return a file with a palette of 16 floats, INT8 weights, ordinary floats, noise and a shape."""
    random = np.random.default_rng(0)
    palette = random.standard_normal(16).astype(np.float32)
    constants = {
        "palette": palette[np.minimum(random.geometric(0.2, (64, 64)) - 1, 15)],
        "integers": np.clip(random.standard_normal((64, 64)) * 20, -127, 127).astype(np.int8),
        "floats": random.standard_normal((64, 64)).astype(np.float32),
        "noise": random.integers(0, 256, 4096, np.uint8),
        "shape": np.array([1, -1]),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(graph(*initializers)).SerializeToString()


@pytest.fixture(scope="module")
def packed(model: bytes) -> bytes:
    """Return its compact form."""
    return pack(model)


def test_each_tensor_is_coded_in_its_own_way(model: bytes, packed: bytes) -> None:
    """Palettes and integers near their entropy, floats by their exponents, noise as it is; small ones not at all."""
    found = {it.entry.name: it for it in tensors(packed)}
    assert {name: it.coding for name, it in found.items()} == {
        "palette": "palette",
        "integers": "bytes",
        "floats": "bytes",
        "noise": "raw",
    }
    assert found["palette"].distinct == 16
    assert found["noise"].after == found["noise"].before == 4096
    for name in ("palette", "integers"):
        bits, entropy = 8 * found[name].after / found[name].entry.count, found[name].entropy
        assert entropy < bits < entropy + 0.6  # a code of whole bits, its codebook and the lanes
    assert 0.8 < found["floats"].after / found["floats"].before < 0.87
    assert stored_bytes(model) == len(packed) < len(zlib.compress(model, 9))


def leb128(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a byte, and the byte after it."""
    number = shift = 0
    while True:
        number, shift, at = number | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return number, at


def read_slowly(data: bytes, width: int) -> list[int]:
    """Return the symbols of a Huffman stream, bit by bit, as docs/acz.md says."""
    (number, at), counts = leb128(data, 0), []
    lane, at = leb128(data, at)
    for _ in range(16):
        count, at = leb128(data, at)
        counts.append(count)
    book = [int.from_bytes(data[at + i * width : at + (i + 1) * width], "little") for i in range(sum(counts))]
    at += len(book) * width
    words: dict[tuple[int, int], int] = {}
    code = 0
    for length, count in enumerate(counts, 1):
        code <<= 1
        for _ in range(count):
            words[length, code] = book[len(words)]
            code += 1
    lanes = -(-number // lane)
    begin, symbols = at + 2 * lanes, []
    for i in range(lanes):
        taken = int.from_bytes(data[at + 2 * i : at + 2 * i + 2], "little")
        bits, code, length, left = data[begin : begin + taken], 0, 0, min(lane, number - i * lane)
        for place in range(8 * taken):
            code, length = code << 1 | bits[place // 8] >> (7 - place % 8) & 1, length + 1
            if left and (length, code) in words:
                symbols.append(words[length, code])
                code, length, left = 0, 0, left - 1
        begin += taken
    assert begin == len(data)
    return symbols


def test_a_reader_that_follows_the_document_reads_the_file(model: bytes, packed: bytes) -> None:
    """One that has nothing in common with ours gets the same bytes out of it."""
    size = int.from_bytes(packed[12:16], "little")
    header = json.loads(zlib.decompress(packed[16 : 16 + size]))
    at = 16 + size + header["structure"]
    found = zlib.decompress(packed[16 + size : at])
    for tensor in header["tensors"]:
        width, columns = tensor["width"], []
        one = width // len(tensor["parts"])
        for part in tensor["parts"]:
            stream = packed[at : at + part["bytes"]]
            at += part["bytes"]
            raw = [int.from_bytes(stream[i : i + one], "little") for i in range(0, len(stream), one)]
            columns.append(raw if part["coding"] == "raw" else read_slowly(stream, one))
        elements = columns[0]
        if len(columns) > 1:
            rotated = [sum(byte << 8 * i for i, byte in enumerate(element)) for element in zip(*columns, strict=True)]
            elements = [element >> 1 | (element & 1) << (8 * width - 1) for element in rotated]
        data = b"".join(element.to_bytes(width, "little") for element in elements)
        found = found[: tensor["offset"]] + data + found[tensor["offset"] :]
    assert at == len(packed) - 32
    assert found == model


def test_bit_patterns_survive() -> None:
    """Zeros of both signs and NaN with any payload are values of their own."""
    patterns = np.array([0, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800000], np.uint32)
    value = np.random.default_rng(0).choice(patterns, 2000).view(np.float32)
    model = helper.make_model(graph(numpy_helper.from_array(value, "w"))).SerializeToString()
    packed = pack(model)
    assert [(it.distinct, it.coding) for it in tensors(packed)] == [(6, "palette")]
    assert unpack(packed) == model


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_refused(packed: bytes, data: st.DataObject) -> None:
    """A flipped bit anywhere, a shorter or a longer file: never another model, never another error."""
    damaged = bytearray(packed)
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if kind == "flip":
        damaged[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[data.draw(st.integers(0, len(packed) - 1)) :]
    else:
        damaged += data.draw(st.binary(min_size=1, max_size=40))
    with pytest.raises(CompactFileError, match=r"A compact file must .*"):
        unpack(bytes(damaged))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damage_that_is_sealed_again_gives_no_other_model(model: bytes, packed: bytes, data: st.DataObject) -> None:
    """Where the file's own hash was made to fit, it is refused, or nothing that matters was changed."""
    body = bytearray(packed[:-32])
    for _ in range(data.draw(st.integers(1, 4))):
        place, change = data.draw(st.integers(PREFIX, len(body) - 1)), data.draw(st.integers(1, 255))
        body[place] ^= change
    del body[data.draw(st.none() | st.integers(PREFIX, len(body))) or len(body) :]
    try:
        found = unpack(sealed(bytes(body)))
    except CompactFileError:
        return
    assert found == model


@pytest.mark.parametrize(
    "change",
    [
        {"size": 10**15},
        {"structure": -1},
        {"tensors": None},
        {"sha256": "0" * 64},
        {"unknown": 1},
        {"tensors": [{"name": "w", "type": "float32", "offset": 0, "count": 10**15, "width": 4, "parts": []}]},
        {"tensors": [{"name": "w", "offset": 0, "count": 1, "width": 3, "parts": [{"coding": "raw", "bytes": 3}]}]},
        {
            "tensors": [
                {
                    "name": "w",
                    "type": "float32",
                    "offset": 0,
                    "count": 10**15,
                    "width": 4,
                    "parts": [{"coding": "huffman", "bytes": 0}],
                }
            ]
        },
        [],
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(packed: bytes, change: object) -> None:
    """Sizes beyond the file allocate nothing; unknown keys and codings are errors."""
    end = PREFIX + int.from_bytes(packed[PREFIX - 4 : PREFIX], "little")
    header = json.loads(zlib.decompress(packed[PREFIX:end]))
    text = zlib.compress(json.dumps({**header, **change} if isinstance(change, dict) else change).encode())
    body = packed[: PREFIX - 4] + len(text).to_bytes(4, "little") + text + packed[end:-32]
    with pytest.raises(CompactFileError):
        unpack(sealed(body))


BOMB = """
import sys
from pathlib import Path
from autocompress.compressors.compact.acz import unpack
from autocompress.errors import CompactFileError
from autocompress.evaluators.meters.serve_once import peak_so_far
begun = peak_so_far()
try:
    unpack(Path(sys.argv[1]).read_bytes())
except CompactFileError as error:
    print(peak_so_far() - begun, error)
"""


@pytest.mark.parametrize("where", ["header", "structure"])
def test_a_few_bytes_do_not_fill_the_memory(where: str, packed: bytes, tmp_path: Path) -> None:
    """What is inflated is no more than the header tells, and the header is not endless; the error says how much."""
    end = PREFIX + int.from_bytes(packed[PREFIX - 4 : PREFIX], "little")
    endless = zlib.compress(bytes(300 << 20), 9)
    header = {"size": 10, "sha256": "0" * 64, "structure": len(endless), "tensors": []}
    text = endless if where == "header" else zlib.compress(json.dumps(header).encode())
    body = (
        packed[: PREFIX - 4]
        + len(text).to_bytes(4, "little")
        + text
        + (packed[end:-32] if where == "header" else endless)
    )
    (tmp_path / "bomb.acz").write_bytes(sealed(body))
    command = [sys.executable, "-c", BOMB, tmp_path / "bomb.acz"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(told.split()[0]) < 200 << 20
    assert f"{len(endless):,} deflated bytes hold more than the" in told


def test_newer_and_foreign_files_say_what_they_are(model: bytes, packed: bytes) -> None:
    """The message names the version that came, or the first bytes."""
    newer = packed[: len(MAGIC)] + (VERSION + 1).to_bytes(4, "little") + packed[len(MAGIC) + 4 : -32]
    with pytest.raises(CompactFileError, match=f"must be of version {VERSION}; got {VERSION + 1}"):
        unpack(sealed(newer))
    for foreign in (b"", MAGIC, b"PK\x03\x04" + bytes(100), model):
        with pytest.raises(CompactFileError, match="must begin with"):
            unpack(foreign)


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(50), b"\x08\x08", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_not_packed(content: bytes) -> None:
    """Neither nothing, nor text, nor a file that ends in the middle."""
    with pytest.raises(UsageError, match="must be one whole ONNX file"):
        pack(content)


def test_a_file_that_is_cut_short_is_not_packed(model: bytes) -> None:
    """A beginning of an ONNX file is distinguished from the whole, wherever it ends in the graph."""
    for end in range(40, len(model) - 30, 997):
        with pytest.raises(UsageError, match="must be one whole ONNX file"):
            pack(model[:end])


def test_weights_beside_the_file_are_told(tmp_path: Path, model: bytes) -> None:
    """A file without its weights would not be a model when it comes back; the message has the way out."""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(model), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(UsageError, match=r"'palette' in a file beside it.*onnx\.save\(onnx\.load\(path\), path\)"):
        pack(path.read_bytes())


def test_neither_torch_nor_onnx_is_needed(tmp_path: Path, model: bytes) -> None:
    """A machine with numpy alone can unpack."""
    (tmp_path / "model.acz").write_bytes(pack(model))
    code = (
        "import sys; sys.modules.update(torch=None, onnx=None); from pathlib import Path;"
        "from autocompress.compressors.compact.acz import unpack;"
        "sys.stdout.buffer.write(unpack(Path('model.acz').read_bytes()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == model
