"""Networks that are called with keywords are compressed as all others are."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import StudyError
from autocompress.evaluators.ladder.served import Served, parity, source_of
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies.keywords import Keywords, first_tensor
from autocompress.studies.task import Task
from autocompress.studies.validate import validate


@dataclass
class Output:
    """What the network gives."""

    loss: Tensor | None
    hidden: Tensor
    logits: Tensor


class Reader(nn.Module):
    """Means of embedded tokens, where a mask is one, through two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.inner = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, *, attention_mask: Tensor, input_ids: Tensor) -> Output:
        """Map tokens and mask of shape (N, tokens) to three logits."""
        kept = attention_mask[..., None].float()
        hidden = self.inner((self.embed(input_ids) * kept).sum(1) / kept.sum(1)).relu()
        return Output(loss=None, hidden=hidden, logits=self.head(hidden))


def inputs(examples: int) -> dict[str, Tensor]:
    """Return random tokens of which half are masked in half of the examples."""
    mask = torch.ones(examples, 6, dtype=torch.long)
    mask[examples // 2 :, 3:] = 0
    return {"input_ids": torch.randint(0, 20, (examples, 6)), "attention_mask": mask}


def accuracy(model: nn.Module, loader: Any) -> float:
    """Score a model as a user would: with the batch's mapping."""
    hits = [(model(batch).argmax(1) == batch["labels"]).float().mean() for batch in loader]
    return float(torch.stack(hits).mean())


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss as a user would: by keywords."""
    outputs: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return functional.cross_entropy(outputs, batch["labels"])


def task(**changes: Any) -> Task:
    """Return a task of batches that are mappings with labels."""
    torch.manual_seed(0)
    batches = [{**inputs(8), "labels": torch.randint(0, 3, (8,))} for _ in range(3)]
    return Task(
        **({"model": Reader().eval(), "example_inputs": inputs(1), "train": batches, "validation": batches} | changes)
    )


def test_the_model_is_called_in_all_three_ways() -> None:
    """With tensors in the order of the example inputs, with a mapping in any order, and with keywords."""
    it = task()
    ids, mask = it.examples
    expected = it.model(ids, mask)
    assert expected.shape == (1, 3)
    assert torch.equal(it.model({"labels": None, "attention_mask": mask, "input_ids": ids}), expected)
    assert torch.equal(it.model(attention_mask=mask, input_ids=ids), expected)
    with pytest.raises(TypeError, match="there is no attention_mask"):
        it.model({"input_ids": ids})


@pytest.mark.parametrize("changes", [{}, {"metric": accuracy, "loss": loss}, {"keep": ["inner"]}])
def test_a_sound_task_passes(changes: dict[str, Any]) -> None:
    """With our loss and metric and with the user's; names in `keep` are those of the user's network."""
    it = task(**changes)
    validate(it)
    again = replace(it, epochs=2.0)
    assert isinstance(again.model, Keywords)
    assert isinstance(again.model.network, Reader)
    assert again.keep == it.keep == tuple(f"network.{name}" for name in changes.get("keep", ()))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(it)))
    assert torch.equal(copied.model(*it.examples), it.model(*it.examples))


def test_batches_of_mapping_and_labels() -> None:
    """Other batches than mappings with labels are pairs of a mapping and labels."""
    batches = [(inputs(8), torch.zeros(8, dtype=torch.long))]
    validate(task(train=batches, validation=batches))


def test_a_name_that_does_not_exist_is_told() -> None:
    """A wrong name in `keep` is an error as in all tasks."""
    with pytest.raises(StudyError, match="there is none called"):
        validate(task(keep=["outer"]))


def test_it_is_compressed_and_served() -> None:
    """Pruned, in INT8 and trained, the exported network has the keywords as inputs and gives what PyTorch gives."""
    it = task(metric=accuracy, loss=loss)
    supplies = supplies_of(it)
    network = inspect(it.model, it.examples)
    assert [group.name for group in network.groups] == ["network.inner"]
    candidate = Candidate({PRUNING_RATIO: {"network.inner": 0.5}, BITS: {layer.name: 8 for layer in network.layers}})
    compressed = apply_candidate(it, candidate, supplies, epochs=1)
    graph = onnx.load_from_string(compressed.onnx).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    runtime = load("onnxruntime")
    with runtime.build(runtime.convert(source_of(compressed, supplies)), threads=1) as engine:
        parity(compressed.model, Served(engine), supplies.calibration, tolerance=0.1)
        assert it.metric(Served(engine), it.validation) == pytest.approx(
            it.metric(compressed.model, it.validation), abs=0.1
        )


@pytest.mark.parametrize("kind", [dict, OrderedDict, tuple, list, Output])
def test_the_first_tensor_of_an_output(kind: type) -> None:
    """Logits come first where there are any."""
    logits, hidden = torch.ones(2), torch.zeros(2)
    if kind is Output:
        assert first_tensor(Output(None, hidden, logits)) is logits
    elif issubclass(kind, dict):
        assert first_tensor(kind(loss=None, hidden=hidden, logits=logits)) is logits
        assert first_tensor(kind(loss=None, hidden=hidden)) is hidden
    else:
        assert first_tensor(kind([None, hidden, logits])) is hidden


def test_an_output_without_tensors() -> None:
    """The message says what came instead."""
    with pytest.raises(TypeError, match="must return a tensor"):
        first_tensor({"text": "yes"})
