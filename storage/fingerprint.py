"""Recognises a study by its networks, its data, and what its loss, metric and training do.

Compares what they *do* where that can be tried. So a comment, another name or another machine makes no other study; new
weights, new data or another metric do.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..errors import RunDirectoryError
from .run import as_written
from .run_directory import RunDirectory

if TYPE_CHECKING:
    from optuna import Study
    from torch import Tensor, nn

    from ..studies.task import Batch, Task

FILE = "fingerprint.json"
"""File of the fingerprint in a run directory."""

ROUNDING = 1e-3
"""Largest relative difference of one study's outputs between machines."""

WEIGHTS = 1e-5
"""The same for weights, which some tasks compute from those that they have read."""

NETWORKS = {"model": "original", "student": "student"}
"""Networks whose weights a run keeps, with the files' names."""

TRAINING = ("train data", "loss", "fit", "distance")
"""Parts of a task that only train candidates."""

Fingerprint = dict[str, Any]


def fingerprint_of(task: Task) -> Fingerprint:
    """Return the fingerprint of a task, as data for JSON; unknown parts are None, and match everything."""
    import torch  # noqa: PLC0415  # start-up time: torch is slow to import

    from ..studies.networks.copied import copied  # noqa: PLC0415  # start-up time: torch is slow to import

    found: Fingerprint = {}
    batches: dict[str, Batch] = {}
    with torch.random.fork_rng(devices=[]):
        for name in ("train", "validation", "test", "calibration"):
            loader = getattr(task, name)
            if loader is not None:
                torch.manual_seed(0)
                batches[name] = next(iter(loader))
                found[f"{name} data"] = _data(task, loader, batches[name])
        model = copied(task.model).eval()
        train, validation = batches["train"], batches["validation"]
        with torch.no_grad():
            found["loss"] = _number(lambda: task.loss(model, train), found["train data"])
            found["metric"] = _number(lambda: task.metric(model, [validation]), found["validation data"])
            if task.teacher is not None:
                found["teacher"] = _answers(copied(task.teacher).eval(), task.examples)
    found["fit"] = "ours" if task.fit is None else _source(task.fit)
    own = callable(task.distance) and not is_dataclass(task.distance)
    found["distance"] = _source(task.distance) if own else str(task.distance)
    return found


def check_same(path: Path, task: Task) -> Fingerprint:
    """Check that a task is the one that a run directory was started with, if any; return its fingerprint.

    Raises:
        RunDirectoryError: it is not.
    """
    mine = fingerprint_of(task)
    others = [f"the {name}'s weights" for name in NETWORKS if _changed(path, name, task)]
    if (path / FILE).exists():
        with as_written(path):
            others += [f"the {name}" for name in differences(json.loads((path / FILE).read_text()), mine, task)]
    if others:
        raise RunDirectoryError(
            f"a run directory is resumed with the study it was started with; since {str(path)!r} was started, these "
            f"have changed: {', '.join(others)}. Models from before and after cannot be compared: give another "
            "directory with --out DIR, or delete that one to start again. (A study that draws weights or data at "
            "random has to seed that.)"
        )
    return mine


def keep(rundir: RunDirectory, mine: Mapping[str, Any]) -> None:
    """Keep a task's fingerprint in a run directory; parts that were known before stay unchanged."""
    path = rundir.path / FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    rundir.write_json(FILE, {**mine, **{name: value for name, value in kept.items() if value is not None}})


def loosen(rundir: RunDirectory, study: Study | None) -> None:
    """Let a task be resumed with another training; call this if nothing could be trained with it.

    Args:
        rundir: keeps the fingerprint.
        study: also keeps it, if several drivers share a database.
    """
    loose = dict.fromkeys(TRAINING)
    rundir.write_json(FILE, {**json.loads((rundir.path / FILE).read_text()), **loose})
    if study is not None:
        study.set_user_attr("fingerprint", {**study.user_attrs["fingerprint"], **loose})


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any], task: Task) -> list[str]:
    """Return which parts of a task have changed; parts that change each time do not count."""
    found = [name for name in {**theirs, **mine} if _differ(name, theirs, mine)]
    again = fingerprint_of(task) if found else mine
    return [name for name in found if not _differ(name, mine, again)]


def _differ(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if name not in one or name not in other:
        return name != "test data"  # with which nothing was chosen
    a, b = one[name], other[name]
    if a is None or b is None:
        return False
    if name.endswith(" data"):
        batch = "batch" if a["size"] == b["size"] else "first"  # another size of the batches alone is no other data
        return bool(a[batch] != b[batch] or (None not in (n := (a["examples"], b["examples"])) and n[0] != n[1]))
    if name in ("loss", "metric"):
        return bool(a["of"] == b["of"] and not _near([a["value"]], [b["value"]]))
    if name == "teacher":
        return not _near(a, b)
    return bool(a != b)


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    scale = max((abs(value) for value in (*one, *other)), default=0.0)
    return len(one) == len(other) and all(abs(a - b) <= ROUNDING * scale for a, b in zip(one, other, strict=True))


def _changed(path: Path, name: str, task: Task) -> bool:
    """Return whether a network's weights differ from those that a run keeps, by more than rounding."""
    from safetensors.torch import load_file  # noqa: PLC0415  # start-up time: torch is slow to import

    network: nn.Module | None = getattr(task, name)
    file = path / "baseline" / f"{NETWORKS[name]}.safetensors"
    if network is None or not file.exists():
        return False
    kept, state = load_file(file), network.state_dict()
    if {n: t.shape for n, t in kept.items()} != {n: t.shape for n, t in state.items()}:
        return True
    return any(_apart(kept[n], state[n].detach().cpu()) for n in kept)


def _apart(kept: Tensor, now: Tensor) -> bool:
    one, other = kept.double(), now.double()
    return bool((one - other).norm() > WEIGHTS * one.norm())


def _data(task: Task, loader: object, batch: Batch) -> dict[str, Any]:
    """Return the identity of data: their number, the first batch, and its first example."""
    from ..studies.counted import examples  # noqa: PLC0415  # start-up time: torch is slow to import

    leaves = list(_leaves(task, batch))
    count = None
    with suppress(Exception):  # batches of the user's own
        count = examples(loader)  # type: ignore[arg-type]
    size = next((len(leaf) for leaf in leaves if leaf.dim()), 0)
    first = [leaf[:1] if leaf.dim() else leaf for leaf in leaves]
    return {"examples": count, "size": size, "batch": _digest(leaves), "first": _digest(first)}


def _leaves(task: Task, batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors of a batch, its inputs first."""
    import torch  # noqa: PLC0415  # start-up time: torch is slow to import
    from torch.utils import _pytree  # noqa: PLC0415  # start-up time: torch is slow to import

    for leaf in (*task.inputs(batch), *_pytree.tree_leaves(batch)):
        if isinstance(leaf, torch.Tensor):
            dense = leaf.detach().cpu()
            yield dense if dense.layout is torch.strided else dense.to_dense()


def _digest(tensors: Sequence[Tensor]) -> str:
    import torch  # noqa: PLC0415  # start-up time: torch is slow to import

    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _number(ask: Callable[[], Any], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the value of a loss or a metric for a batch; None if it gives nothing for a single batch."""
    with suppress(Exception):  # the user's own
        value = float(ask())
        return {"of": data["batch"], "value": value} if math.isfinite(value) else None
    return None


def _answers(network: nn.Module, inputs: Sequence[Tensor]) -> list[float]:
    outputs: list[float] = network(*inputs).flatten()[:64].tolist()
    return outputs


def _source(function: object) -> str | None:
    """Return a digest of a function and of those that it calls from its own file, without comments; None if unknown.

    Names, blanks and documentation of the file's other functions do not matter.
    """
    found = hashlib.sha256()
    try:
        for each in sorted(_called(inspect.unwrap(function)), key=lambda each: each.__qualname__):  # type: ignore[arg-type]
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                    node.body = node.body[1:]
            found.update(ast.dump(tree).encode())
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return found.hexdigest()[:16]


def _called(function: object) -> set[FunctionType]:
    """Return a function, and all that it calls from its module, except ``task()``, whose parts are separate."""
    plain = getattr(function, "__func__", function)
    if not isinstance(plain, FunctionType):
        raise TypeError("it has no source of its own")
    found, todo = {plain}, [plain]
    while todo:
        each = todo.pop()
        for name in each.__code__.co_names:
            used = each.__globals__.get(name)
            if not isinstance(used, FunctionType) or used in found or name == "task":
                continue
            if used.__module__ == plain.__module__:
                found.add(used)
                todo.append(used)
    return found
