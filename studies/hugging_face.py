"""Image classifiers of Hugging Face's transformers: a directory written by `save_pretrained`, or a name on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import StudyError, gist
from .keywords import Keywords

PIXELS = "pixel_values"
"""The only input of an image classifier."""


def pretrained(name: str) -> nn.Module:
    """Return a classifier that is called with images and returns its logits.

    Raises:
        StudyError: transformers is not installed, or a directory holds no classifier of images.
    """
    auto = _transformers().AutoModelForImageClassification
    if not Path(name).is_dir():
        return Keywords(auto.from_pretrained(name), (PIXELS,))
    try:
        return Keywords(auto.from_pretrained(name, local_files_only=True), (PIXELS,))
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"transformers:DIR must be a directory that save_pretrained() wrote for a classifier of images; {name!r}: "
            f"{gist(error)}. Networks for text take a study file"
        ) from error


def untrained(name: str, classes: int) -> nn.Module:
    """Refuse other weights, because a directory has its own.

    Raises:
        StudyError: always.
    """
    raise StudyError(
        f"--weights belongs to torchvision:NAME and timm:NAME; transformers:{name} has weights of its own. "
        "Save yours with save_pretrained(DIR) and give transformers:DIR"
    )


@dataclass(frozen=True)
class Preprocessing:
    """A network's own preprocessing, read from the folder of its weights. It can be pickled.

    Args:
        name: of the network.
    """

    name: str

    @classmethod
    def of(cls, name: str) -> Preprocessing:
        """Return a network's preprocessing, with an absolute path for other processes."""
        return cls(str(Path(name).resolve()) if Path(name).is_dir() else name)

    @cached_property
    def processor(self) -> Any:
        """The image processor of transformers."""
        try:
            return _transformers().AutoImageProcessor.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            raise StudyError(
                f"transformers:{self.name} must have a preprocessor_config.json, which says how images are prepared. "
                "Save its image processor beside it with save_pretrained(DIR)"
            ) from error

    def __call__(self, image: Any) -> Tensor:
        """Return an image as the network takes it, without a batch."""
        pixels: Tensor = self.processor(images=image, return_tensors="pt")[PIXELS][0]
        return pixels


def license_of(name: str) -> str:
    """Return the license in the model card of a directory; empty if there is none."""
    try:
        text = (Path(name) / "README.md").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\A---\n(?:.*\n)*?license:\s*(.+)\n(?:.*\n)*?---", text)
    return found[1].strip() if found else ""


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise StudyError(
            "transformers:NAME needs transformers, which is not installed: pip install 'autocompress[transformers]'"
        ) from error
    return transformers
