"""Large data of a task: the same after its way to a worker, once on a node, and each worker's own where it writes."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.evaluators.scratch import FOLDER
from autocompress.search.workers import shared_memory as sharing
from autocompress.search.workers.shared_memory import copies, forget, mapped, packed, unpacked

KEY, OTHER, LEFT = (character * 32 for character in "abc")
"""Names of what is shared."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def tensors() -> st.SearchStrategy[Tensor]:
    """Draw tensors of any type, from both sides of the size that is shared, dense, strided or a view."""

    @st.composite
    def draw(choose: st.DrawFn) -> Tensor:
        shape = choose(st.lists(st.integers(0, 300), min_size=1, max_size=2))
        numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        whole = numbers.mul(9).to(choose(st.sampled_from(DTYPES)))
        match choose(st.sampled_from(("whole", "transposed", "every other", "a part"))):
            case "transposed":
                return whole.t() if whole.dim() == 2 else whole
            case "every other":
                return whole[::2]
            case "a part":
                return whole[len(whole) // 2 :]
        return whole

    return draw()


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in every property."""
    told = (one.dtype, one.shape, one.stride(), one.requires_grad) == (
        other.dtype,
        other.shape,
        other.stride(),
        other.requires_grad,
    )
    return told and torch.equal(one, other)


def carried(work: Any) -> Any:
    """Return an object after the way to a worker, and check that its bytes hold nothing that is large."""
    content, buffers = packed(work)
    assert content.key != packed(work)[0].key
    content = pickle.loads(pickle.dumps(content))
    assert all(buffer.nbytes >= sharing.SHARED_BYTES for buffer in buffers)
    return unpacked(content, copies(buffers))


@given(st.lists(tensors(), max_size=4))
def test_tensors_arrive_as_they_were(given_tensors: list[Tensor]) -> None:
    """Type, shape, strides and numbers are the same, and all can be written to."""
    arrived = carried(given_tensors)
    assert all(same(a, b) for a, b in zip(given_tensors, arrived, strict=True))
    for tensor in arrived:
        tensor.zero_()


@given(st.sampled_from(["f4", "i8", "u1", "c16"]), st.integers(2, 40_000), st.sampled_from("CF"))
def test_arrays_arrive_as_they_were(kind: str, length: int, order: Any) -> None:
    """So are arrays of numpy, and what cannot be written to still cannot."""
    array = np.asarray(np.arange(2 * length).reshape(2, length), dtype=kind, order=order)
    frozen = array.copy()
    frozen.flags.writeable = False
    one, other = carried([array, frozen])
    np.testing.assert_array_equal(one, array)
    assert (one.dtype, one.strides, one.flags.writeable) == (array.dtype, array.strides, True)
    assert not other.flags.writeable


def test_views_of_one_tensor_are_sent_once() -> None:
    """A thousand batches cut from a data set take the room of the data set, and stay views of one another."""
    data = torch.randn(100_000)
    content, buffers = packed([data, *data.split(100)])
    assert [buffer.nbytes for buffer in buffers] == [400_000]
    assert len(content.content) < 200_000
    whole, first, *_ = unpacked(content, copies(buffers))
    first[0] = 7.0
    assert whole[0] == 7.0


def test_networks_and_what_is_special_arrive_as_they_were() -> None:
    """Parameters are parameters again, and gradients, attributes and sparse tensors are not lost."""
    net = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300))
    marked, wanting, sparse = torch.ones(50_000), torch.ones(50_000, requires_grad=True), torch.eye(300).to_sparse()
    marked.title = "mine"  # type: ignore[attr-defined]
    net2, marked2, wanting2, sparse2, function = carried([net, marked, wanting, sparse, lambda: marked])
    assert all(type(a) is type(b) and same(a, b) for a, b in zip(net.parameters(), net2.parameters(), strict=True))
    assert (marked2.title, wanting2.requires_grad, sparse2.layout) == ("mine", True, torch.sparse_coo)
    assert function() is marked2
    net2(torch.ones(2, 300)).sum().backward()


def test_packing_copies_nothing() -> None:
    """The buffers are the tensors' own memory."""
    data = torch.zeros(100_000)
    _, [buffer] = packed({"data": data})
    data[0] = 1.0
    assert np.frombuffer(buffer, np.float32)[0] == 1.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the node's folder for what is shared, in a place of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path / FOLDER
    monkeypatch.undo()


def refuse() -> list[bytes]:
    """Fail: what is there must not be fetched again."""
    raise AssertionError("fetched again")


def test_a_node_fetches_once(folder: Path) -> None:
    """The second process maps what the first one wrote; who writes has a copy of the page, and nobody else sees it."""
    one = mapped(KEY, [5, 100_000], lambda: [b"12345", bytes(100_000)])
    two = mapped(KEY, [5, 100_000], refuse)
    one[0][0] = ord("9")
    assert (bytes(one[0]), bytes(two[0])) == (b"92345", b"12345")
    assert [view.nbytes for view in two] == [5, 100_000]
    assert bytes(mapped(KEY, [5, 100_000], refuse)[0]) == b"12345"


def test_a_file_that_was_not_written_to_its_end_is_written_again(folder: Path) -> None:
    """The death of the process that wrote it costs nothing but time."""
    folder.mkdir(mode=0o700)
    (folder / KEY).write_bytes(b"12")
    assert bytes(mapped(KEY, [5], lambda: [b"12345"])[0]) == b"12345"


def test_what_nobody_uses_is_deleted(folder: Path) -> None:
    """What a killed run left goes when the next one comes; what is mapped stays."""
    folder.mkdir(mode=0o700)
    (folder / LEFT).write_bytes(b"12345")
    os.utime(folder / LEFT, (0, 0))
    used = mapped(KEY, [5], lambda: [b"12345"])
    other = mapped(OTHER, [5], lambda: [b"12345"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([KEY, OTHER])
    forget(KEY)
    assert (bytes(used[0]), bytes(other[0])) == (b"12345", b"12345")
    assert [path.name for path in folder.iterdir()] == [OTHER]


def test_without_a_place_for_the_file_each_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a folder that is none, costs memory and nothing else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert bytes(mapped(KEY, [5], lambda: [b"12345"])[0]) == b"12345"
    assert not any(tmp_path.iterdir())


def test_the_folder_of_a_stranger_is_not_shared_through(folder: Path) -> None:
    """Each process has its own memory then, and reads and writes nothing there."""
    folder.mkdir(mode=0o700)
    (folder / KEY).write_bytes(b"poison".ljust(64, b"\0"))
    folder.chmod(0o777)
    assert bytes(mapped(KEY, [5], lambda: [b"12345"])[0]) == b"12345"
    forget(KEY)
    assert (folder / KEY).read_bytes().startswith(b"poison")


def test_a_link_in_the_place_of_what_is_shared_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """The file that it leads to is neither read nor written."""
    folder.mkdir(mode=0o700)
    (tmp_path / "mine").write_bytes(b"kept")
    (folder / KEY).symlink_to(tmp_path / "mine")
    assert bytes(mapped(KEY, [5], lambda: [b"12345"])[0]) == b"12345"
    assert (tmp_path / "mine").read_bytes() == b"kept"
