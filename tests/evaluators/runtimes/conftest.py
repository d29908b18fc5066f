"""A small network of the kind that is served, in float, pruned, and in INT8."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.compressors.pipeline import Compressed, apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.runtime import Arrays, Source
from autocompress.evaluators.runtimes import litert_convert, load
from autocompress.evaluators.scratch import scratch
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task


@dataclass(frozen=True)
class Sample:
    """A compressed network, what a runtime converts, and batches of inputs with what PyTorch makes of them."""

    compressed: Compressed
    source: Source
    batches: tuple[Arrays, ...]
    expected: tuple[Tensor, ...]


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Sample]:
    """Return a residual network by name: ``float``, ``pruned``, ``int8``, ``mixed`` (its middle stays in float)."""
    torch.manual_seed(0)
    model = ResidualNet((16, 32), (1, 1), channels=3, classes=10).eval()
    model.train()
    with torch.no_grad():  # statistics as of a trained network
        for seed in range(4):
            model(_images(32, seed))
    model.eval()
    batches = [(_images(8, seed), torch.zeros(8, dtype=torch.long)) for seed in range(4)]
    task = Task(model=model, example_inputs=_images(1, 9), train=batches, validation=batches)
    network = inspect(task.model, task.examples)
    layers = [layer.name for layer in network.layers]
    candidates = {
        "float": Candidate(),
        "pruned": Candidate({PRUNING_RATIO: {group.name: 0.5 for group in network.groups}}),
        "int8": Candidate({BITS: dict.fromkeys(layers, 8)}),
        "mixed": Candidate({BITS: {name: 8 for i, name in enumerate(layers) if i != len(layers) // 2}}),
    }
    made: dict[str, Sample] = {}

    def get(name: str) -> Sample:
        if name not in made:
            supplies = supplies_of(task)
            compressed = apply_candidate(task, candidates[name], supplies, epochs=0)
            inputs = tuple(_images(count, 20 + count) for count in (1, 5))
            with torch.no_grad():
                expected = tuple(compressed.model(x) for x in inputs)
            made[name] = Sample(
                compressed, source_of(compressed, supplies), tuple([x.numpy()] for x in inputs), expected
            )
        return made[name]

    return get


KINDS = ("float", "pruned", "int8", "mixed")

CONVERTER = f"""
import sys
from pathlib import Path
from {litert_convert.__name__} import main
for folder in sys.argv[1:]:
    main(Path(folder))
"""


def converted_by_one_process(sources: dict[Path, Source]) -> None:
    """Write files of LiteRT by its converter, which is loaded once: that takes much longer than a conversion."""
    with ExitStack() as stack:
        folders = [stack.enter_context(scratch()) for _ in sources]
        for folder, source in zip(folders, sources.values(), strict=True):
            litert_convert._write_job(source, folder, dynamic=False)
        environment = {**os.environ, "AUTOCOMPRESS_PARENT": str(os.getpid())}
        subprocess.run([sys.executable, "-c", CONVERTER, *map(str, folders)], env=environment, check=True)
        for folder, file in zip(folders, sources, strict=True):
            file.write_bytes((folder / litert_convert.RESULT).read_bytes())


@pytest.fixture(scope="session")
def converted(sample: Callable[[str], Sample], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], bytes]:
    """Return a network by name in a runtime's own file, converted once by all processes that share the tests."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def get(runtime: str, kind: str) -> bytes:
        file = folder / f"{runtime}-{kind}"
        with (folder / f"{runtime}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if runtime == "litert" and kind != "float" and not file.exists():
                converted_by_one_process({folder / f"{runtime}-{k}": sample(k).source for k in KINDS[1:]})
            elif not file.exists():
                file.write_bytes(load(runtime).convert(sample(kind).source))
        return file.read_bytes()

    return get
