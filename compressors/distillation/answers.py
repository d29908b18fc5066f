"""Keeps what a teacher answers to the batches of a study, so that it is asked once for all trainings.

Soft labels need the teacher's forward pass, which costs more than all of a small student's step. The trainings of a
study walk one stream of batches, so their answers are kept in files, one for each batch, with a checksum of what the
teacher was given. (Shen and Xing, Fast knowledge distillation, ECCV 2022.) A file is replaced as a whole, so that any
number of processes may share the folder, and one that is killed leaves nothing that is taken for an answer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ...studies.keywords import first_tensor
from ..batches import Endless

MOST_BYTES = 2**30
"""Most bytes of all answers in a folder; later ones are computed each time."""

DISK_SHARE = 0.1
"""The same as a share of what they have taken of the disk and of what is free on it."""

PORTION = 8
"""A process looks at the folder again when it has written one part in so many of the room that it found there."""

DIFFERENCES = 3
"""After so many batches in a row that were not those of the answers, a training computes all of its own."""

_DIGEST = 16

_WARNED: set[Path] = set()

logger = logging.getLogger(__name__)


class Answers:
    """A teacher's kept answers to one training's batches.

    Args:
        folder: keeps them; trainings of one study share it. It may be deleted at any time.
        batches: the training's; the latest batch is the one that the teacher is asked about.

    """

    def __init__(self, folder: Path, batches: Endless) -> None:
        self._folder, self._batches = folder, batches
        self._identity = ""
        self._drawn = self._calls = 0
        self._differences = 0
        self._left = 0.0
        self._full = False

    def of(self, teacher: nn.Module, precision: str) -> Callable[..., Tensor]:
        """Return a function that is called as the teacher is, and returns its first tensor.

        A batch may have several calls, as for two views of each image; their order tells them apart.

        Args:
            teacher: its parameters, buffers and layers are part of the answers' name.
            precision: name of the number format in which it computes.

        """

        def compute(*inputs: Any, **named: Any) -> Tensor:
            return first_tensor(teacher(*inputs, **named))

        def answer(*inputs: Any, **named: Any) -> Tensor:
            if self._differences >= DIFFERENCES:
                return compute(*inputs, **named)
            try:
                file, asked = self._file(teacher, precision), _digest((inputs, named))
            except TypeError:  # what no checksum is known for
                self._differences = DIFFERENCES
                return compute(*inputs, **named)
            found = _read(file)
            if found is not None and found[0] == asked:
                self._differences = 0
                return found[1]
            outputs = compute(*inputs, **named).contiguous()
            if found is None:
                self._write(file, asked, outputs)
            else:
                self._differences += 1
            return outputs

        return answer

    def _file(self, teacher: nn.Module, precision: str) -> Path:
        """Return the file for the next call about the latest batch."""
        if not self._identity:
            self._identity = _identity(teacher)
        self._calls = self._calls + 1 if self._batches.drawn == self._drawn else 0
        self._drawn = self._batches.drawn
        return self._folder / f"{self._identity}-{precision}" / f"{self._batches.place}-{self._calls}"

    def _write(self, file: Path, asked: bytes, outputs: Tensor) -> None:
        """Keep an answer if there is room; tell once in a process if it cannot be written."""
        if self._full or outputs.device.type != "cpu" or outputs.layout is not torch.strided:
            return
        answer = save({"answer": outputs})
        content = asked + _checksum(answer) + answer
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not self._has_room(len(content)):
                return
            part.write_bytes(content)  # no need to wait for the disk: it can be repeated
            part.replace(file)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._full = True
            if self._folder not in _WARNED:
                _WARNED.add(self._folder)
                logger.warning(
                    "the teacher's outputs cannot be kept in %r (%s): trainings take longer, since each computes them",
                    str(self._folder),
                    error.strerror,
                )

    def _has_room(self, size: int) -> bool:
        """Return whether so many more bytes may be written, and count them as written."""
        if size > self._left:
            taken = sum(_sizes(self._folder))
            most = min(MOST_BYTES, DISK_SHARE * (taken + shutil.disk_usage(self._folder).free))
            self._left = (most - taken) / PORTION
        self._full = size > self._left
        self._left -= size
        return not self._full


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes of all files below a folder."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another process has renamed it
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))
            else:
                yield entry.stat(follow_symlinks=False).st_size


def _read(file: Path) -> tuple[bytes, Tensor] | None:
    """Return a checksum of what the teacher was given, and its answer; None if the file is missing or damaged."""
    try:
        content = file.read_bytes()
        asked, checksum, answer = content[:_DIGEST], content[_DIGEST : 2 * _DIGEST], content[2 * _DIGEST :]
        return (asked, load(answer)["answer"]) if checksum == _checksum(answer) else None
    except (OSError, SafetensorError, KeyError):
        return None


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _identity(network: nn.Module) -> str:
    """Return a name that changes with a network's layers, parameters and buffers, and with PyTorch."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return _digest((torch.__version__, type(network).__qualname__, str(network), named)).hex()[:16]


def _digest(value: Any) -> bytes:
    """Return a checksum of tensors, numbers and texts, and of what holds them.

    Raises:
        TypeError: something else is among them.
    """
    found = hashlib.blake2b(digest_size=_DIGEST)
    for part in _parts(value):
        found.update(part)
    return found.digest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"a tensor of layout {value.layout}")
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, Mapping):
        yield f"{len(value)} named ".encode()
        for name, each in value.items():
            yield from (part for item in (name, each) for part in _parts(item))
    elif isinstance(value, (tuple, list)):
        yield f"{len(value)} of ".encode()
        for each in value:
            yield from _parts(each)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r} ".encode()
    else:
        raise TypeError(f"a {type(value).__name__}")
