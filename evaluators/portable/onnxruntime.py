"""A model file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PROVIDERS = {
    "": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = PROVIDERS[variant]
    providers = list(dict.fromkeys([provider, "CPUExecutionProvider"]))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} cannot be used here: it needs onnxruntime-gpu and its device")
    names = [node.name for node in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs)))
