"""Structured and unstructured pruning: dependency groups, importances, attention heads."""

from __future__ import annotations

import sys

_timm = sys.modules.get("timm")
if _timm is None:  # torch_pruning imports it, where it is installed, to count operations: two seconds for nothing
    sys.modules["timm"] = None  # type: ignore[assignment]  # this makes its import fail
try:
    import torch_pruning  # noqa: F401
finally:
    if _timm is None:
        del sys.modules["timm"]
