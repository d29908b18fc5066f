"""Programs that run one model file without autocompress: NumPy and the runtime's own package are all they need.

Each runtime has a module here with ``opened(path, variant, threads)``. `script` joins it with what all of them share
to one file; so nothing here may import anything of ours but what lies beside it, and packages only inside functions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError

PARTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "pytorch": ("pieces", "pytorch"),
    "litert": ("pieces", "litert"),
    "mnn": ("mnn",),
    "tensorrt": ("pieces", "tensorrt"),
    "fake": ("onnxruntime",),
}
"""By runtime, the modules of its program, except the one that all have; the last opens the model."""

NEEDS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "fake": "onnxruntime",
    "onnxruntime:cuda": "onnxruntime-gpu",
    "onnxruntime:tensorrt": "onnxruntime-gpu",
    "openvino": "openvino",
    "pytorch": "torch",
    "litert": "ai-edge-litert",
    "mnn": "MNN",
    "tensorrt": "tensorrt cuda-python",
}
"""What pip has to install for it, beside NumPy."""


def has_program(runtime: str) -> bool:
    """Whether there is such a program: a runtime in a file of the user's has none.

    >>> has_program("openvino:bf16"), has_program("/home/me/mine.py")
    (True, False)
    """
    return runtime.partition(":")[0] in PARTS


def needs(runtime: str) -> str:
    """Return what pip has to install.

    >>> needs("mnn:w8"), needs("onnxruntime:cuda")
    ('numpy MNN', 'numpy onnxruntime-gpu')
    """
    return f"numpy {NEEDS.get(runtime) or NEEDS[runtime.partition(':')[0]]}"


def script(
    runtime: str, *, file: str, output: str = "output", threads: int = 1, title: str = "", maker: str = ""
) -> str:
    """Return the program for a model file that lies beside it.

    Args:
        runtime: one with a program.
        file: the model's name.
        output: the name of the outputs in ``predictions.npz``.
        threads: that it may use.
        title: what the model is, for the first line.
        maker: who made it, for the last.

    >>> script("onnxruntime", file="model.onnx").splitlines()[0].strip('"')
    'Runs model.onnx on onnxruntime, without autocompress.'
    """
    family, _, variant = runtime.partition(":")
    settings = {"FILE": file, "OUTPUT": output, "RUNTIME": runtime, "VARIANT": variant, "THREADS": threads}
    modules = [_parsed(name) for name in (*PARTS[family], "program")]
    heading = f"""{_literal(title or "Runs " + file)} on {_literal(runtime)}, without autocompress.

    pip install {needs(runtime)}
    python load.py              compares what the model answers with what it answered when it was measured
    from load import predict    outputs = predict(inputs), arrays with the batch first

Made by {_literal(maker or "autocompress")}.
"""
    constants = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    parts = [*_imported(modules), constants, *(text for module in modules for text in _bodies(*module, settings))]
    return re.sub(r"\n{4,}", "\n\n\n", "\n\n".join([f'"""{heading}"""', *parts])) + "\n"


def _literal(text: str) -> str:
    """Return text as it stands inside the quotes of a Python string, on one line, whatever is in it."""
    return text.encode("unicode_escape").decode().replace('"', '\\"')


def predictor(runtime: str, path: Path, threads: int) -> Callable[..., Any]:
    """Return a function from arrays to the outputs of a model file, as that of its program.

    Raises:
        UsageError: the runtime has no program.
    """
    family, _, variant = runtime.partition(":")
    if family not in PARTS:
        raise UsageError(f"a model is loaded by a runtime of autocompress: {', '.join(PARTS)}; got {runtime!r}.")
    model = import_module(f".{PARTS[family][-1]}", __package__).opened(path, variant, threads)

    def predict(*inputs: Any) -> Any:
        outputs = model([np.ascontiguousarray(x) for x in inputs])
        return outputs[0] if len(outputs) == 1 else outputs

    return predict


def _parsed(name: str) -> tuple[ast.Module, list[str]]:
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.parse(text), text.splitlines()


def _imported(modules: Sequence[tuple[ast.Module, list[str]]]) -> Iterator[str]:
    """Yield the imports of modules in three blocks, except those of modules beside them."""
    nodes = [node for module, _ in modules for node in module.body]
    blocks: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    for node in nodes:
        if isinstance(node, ast.Import):
            blocks[1 + (node.names[0].name not in sys.stdlib_module_names)].add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            blocks[int(node.module != "__future__")].add(ast.unparse(node))
    yield from ("\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line))) for lines in blocks.values())


def _bodies(module: ast.Module, lines: list[str], settings: Mapping[str, object]) -> Iterator[str]:
    """Yield the text of what a module defines, except its docstring and settings."""
    for node in module.body[1:]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in settings:
            continue
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        block = "\n".join(lines[first - 1 : node.end_lineno])
        yield f"\n{block}\n" if isinstance(node, ast.FunctionDef) else block
