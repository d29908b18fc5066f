"""Names of studies; this module imports nothing that takes time."""

from __future__ import annotations

import re
from pathlib import Path

BUILT_IN = ("digits", "fashion_mnist")
"""Studies that come with the package."""


def study_name(study: str) -> str:
    """Return a study's short name, fit for a folder.

    >>> study_name("studies/my_net.py"), study_name("torchvision:resnet18"), study_name("digits")
    ('my_net', 'torchvision-resnet18', 'digits')
    """
    return re.sub(r"[^\w.-]+", "-", Path(study).stem if study.endswith(".py") else study)
