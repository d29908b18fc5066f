"""Names of studies. This module imports nothing slow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A study that comes with the package.

    Attributes:
        name: its name on the command line.
        network: the network that is compressed.
        data: its data, and where they come from.
        metric: its metric.
    """

    name: str
    network: str
    data: str
    metric: str


STUDIES = (
    BuiltIn(
        name="digits",
        network="residual network for 16×16 pixels, which comes trained",
        data="handwritten digits, part of scikit-learn: nothing to download",
        metric="share of the images with the right class",
    ),
    BuiltIn(
        name="fashion_mnist",
        network="residual network for 28×28 pixels, trained at the first run",
        data="images of clothes: --data-dir DIR with the four files, else downloaded once",
        metric="share of the images with the right class",
    ),
)
"""Studies that come with the package."""

BUILT_IN = tuple(study.name for study in STUDIES)
"""Their names."""

LIBRARIES = ("torchvision", "timm", "transformers")
"""Libraries whose models may be named instead, such as ``torchvision:resnet18``."""


def study_name(study: str) -> str:
    """Return a study's short name, fit for a folder.

    >>> study_name("studies/my_net.py"), study_name("torchvision:resnet18"), study_name("digits")
    ('my_net', 'torchvision-resnet18', 'digits')
    """
    return re.sub(r"[^\w.-]+", "-", Path(study).stem if study.endswith(".py") else study)


def is_study(text: str) -> bool:
    """Return whether a word looks like a study, existing or not.

    >>> is_study("digits"), is_study("my_net.py"), is_study("timm:resnet18"), is_study("mesure")
    (True, True, True, False)
    """
    return text in BUILT_IN or text.endswith(".py") or ":" in text
