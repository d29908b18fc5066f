"""Images from files: decoded once if there is room, and cropped at random for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

CACHE_BYTES = 2**29
"""Most bytes of decoded images in a process; further images are decoded each time."""

AREA, RATIO = (0.6, 1.0), (3 / 4, 4 / 3)
"""Area of a random crop as a share of the image's, and its width over its height."""

Sample = tuple[str, int]
"""A file and its label."""


class Decoded:
    """A cache of decoded images in 8 bits. A copy for another process starts empty."""

    def __init__(self) -> None:
        self._found: dict[str, NDArray[np.uint8]] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the images."""
        return vars(Decoded())

    def image(self, path: str, load: Callable[[str], Any]) -> Image.Image:
        """Return an image, from memory if it is there; otherwise decode it, and keep it if there is room."""
        if path in self._found:
            return Image.fromarray(self._found[path])
        image: Image.Image = load(path).convert("RGB")
        pixels = np.asarray(image)
        if self._bytes + pixels.nbytes <= CACHE_BYTES:
            self._found[path] = pixels
            self._bytes += pixels.nbytes
        return image


class Images(Dataset[tuple[Tensor, int]]):
    """Preprocessed images and their labels.

    Args:
        samples: files and labels.
        load: returns the image in a file.
        decoded: keeps images; those of one data set may share it with others.
        prepare: the network's own preprocessing.
        generator: draws a part of the image, mirrored half of the time, each time it is asked for; None gives it whole.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        load: Callable[[str], Any],
        decoded: Decoded,
        prepare: Callable[[Any], Tensor],
        generator: torch.Generator | None = None,
    ) -> None:
        self.samples, self.load, self.decoded, self.prepare = samples, load, decoded, prepare
        self.generator = generator

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        image = self.decoded.image(path, self.load)
        return self.prepare(image if self.generator is None else random_part(image, self.generator)), label


def random_part(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """Return a random crop of an image, perhaps mirrored (Szegedy et al., CVPR 2015, section 6, with larger crops)."""
    share, slant, left, top, turn = torch.rand(5, generator=generator).tolist()
    area = image.width * image.height * (AREA[0] + share * (AREA[1] - AREA[0]))
    ratio = math.exp(math.log(RATIO[0]) + slant * math.log(RATIO[1] / RATIO[0]))
    width = min(image.width, max(1, round(math.sqrt(area * ratio))))
    height = min(image.height, max(1, round(math.sqrt(area / ratio))))
    x, y = int(left * (image.width - width + 1)), int(top * (image.height - height + 1))
    part = image.crop((x, y, x + width, y + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn < 0.5 else part
