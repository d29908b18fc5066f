"""A pruned network on real images: what LiteRT and MNN serve is as accurate as what PyTorch computes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autocompress.compressors.pipeline import Compressed, apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators.ladder.served import Served, source_of
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies import fashion_mnist
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task, cross_entropy, top1
from autocompress.studies.training import Shuffled, batches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("AUTOCOMPRESS_DATA" not in os.environ, reason="AUTOCOMPRESS_DATA does not name the data folder"),
]

TRAIN, TEST = 9_600, 1_000

POINTS = 0.015
"""How far the accuracies may be apart."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Train on one core: threads that wait for each other take longer where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def halved(images: Tensor) -> Tensor:
    """Return normalised images at 14×14."""
    return functional.avg_pool2d(fashion_mnist.normalized(images), 2)


@pytest.fixture(scope="module")
def task(one_thread: None) -> Task:
    """Return a small residual network after a brief training."""
    torch.manual_seed(0)
    folder = fashion_mnist.find(Path(os.environ["AUTOCOMPRESS_DATA"]))
    images, labels, test_images, test_labels = (fashion_mnist.read_idx(folder / name) for name in fashion_mnist.FILES)
    train = Shuffled(images[:TRAIN], labels[:TRAIN].long(), batch_size=64, prepare=halved)
    test = batches(halved(test_images[:TEST]), test_labels[:TEST].long(), batch_size=250)
    model = ResidualNet((8, 16, 32), (1, 1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for batch in itertools.chain(train, train, train):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Task(model=model.eval(), example_inputs=test[0][0][:1], train=train, validation=test)


def pruned(task: Task, *, bits: int) -> Compressed:
    """Return the task's network with a quarter of each group of channels pruned, and all layers in some bits."""
    network = inspect(task.model, task.examples)
    choices = {PRUNING_RATIO: {group.name: 0.25 for group in network.groups}}
    if bits < 32:
        choices[BITS] = {layer.name: bits for layer in network.layers}
    return apply_candidate(task, Candidate(choices), supplies_of(task), epochs=1)


@pytest.mark.parametrize(("names", "bits"), [(("litert",), 8), (("mnn", "mnn:w8"), 32)])
def test_accuracy_is_served(task: Task, names: tuple[str, ...], bits: int, capsys: pytest.CaptureFixture[str]) -> None:
    """On a thousand images that were not trained on, within a point and a half."""
    compressed = pruned(task, bits=bits)
    source = source_of(compressed, supplies_of(task))
    expected = top1(compressed.model, task.validation)
    assert expected > 0.75
    for name in names:
        runtime = load(name)
        with runtime.build(runtime.convert(source), threads=1) as engine:
            accuracy = top1(Served(engine), task.validation)
        with capsys.disabled():
            print(f"\n{name}, {bits} bits: {accuracy:.1%} where PyTorch has {expected:.1%}", end="")
        assert accuracy == pytest.approx(expected, abs=POINTS)
