"""A model file in PyTorch: TorchScript, an exported program, or a compiled package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .pieces import in_pieces


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays."""
    import torch
    from torch.utils._pytree import tree_leaves

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if variant == "bf16" else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        call, batch = _loaded(torch, path, variant)

    def run(inputs: Any) -> Any:
        tensors = [torch.from_numpy(x) for x in inputs]
        if dtype is not None:
            tensors = [x.to(dtype) if x.is_floating_point() else x for x in tensors]
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = [y for y in tree_leaves(call(*tensors)) if isinstance(y, torch.Tensor)]
            return [(y.float() if y.is_floating_point() else y).numpy() for y in outputs]

    return run if batch is None else lambda inputs: in_pieces(run, batch, inputs)


def _loaded(torch: Any, path: Path, variant: str) -> Any:
    """Return what is called with tensors, and the only size of a batch that it takes, None for any."""
    if variant == "":
        return torch.jit.optimize_for_inference(torch.jit.load(str(path), map_location="cpu")), None
    if variant == "aoti":
        package = torch._inductor.aoti_load_package(str(path))
        size = package.get_metadata().get("batch")
        return package, int(size) if size else None
    program = torch.export.load(str(path))
    used = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.name in used]
    sizes = [value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.dim()]
    batch = sizes[0] if sizes and isinstance(sizes[0], int) else None
    module = program.module(check_guards=False)
    if variant == "compile":
        module = torch.compile(module, dynamic=False, options={"freezing": True})
    return module, batch
