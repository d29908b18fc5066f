"""Tasks for graph neural networks of PyTorch Geometric, which classify all nodes of one graph at a time.

>>> from torch_geometric.datasets import KarateClub  # doctest: +SKIP
>>> from torch_geometric.transforms import RandomNodeSplit  # doctest: +SKIP
>>> data = RandomNodeSplit(num_val=8, num_test=8)(KarateClub()[0])  # doctest: +SKIP
>>> task = node_task(trained_network, data)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import StudyError
from .networks.copied import copied
from .task import Batch, Loader, Task

if TYPE_CHECKING:
    from torch_geometric.data import Data

SPLITS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}

STEPS = 20
"""Steps of training that count as one pass over a graph."""


def node_task(
    model: nn.Module,
    data: Data,
    *,
    inputs: Sequence[str] = ("x", "edge_index"),
    steps: int = STEPS,
    epochs: float = 1.0,
    final_epochs: float = 3.0,
    keep: Sequence[str] = (),
) -> Task:
    """Return the task of a network that classifies the nodes of a graph.

    All nodes are served at a time, those of the test set too, as a network over a graph sees the features of all of
    them; losses and accuracies are of the nodes of a mask only.

    Args:
        model: the trained network: ``model(x, edge_index)`` gives logits of shape (nodes, classes).
        data: a graph with labels ``y`` of shape (nodes,), ``train_mask``, ``val_mask`` and, if there is one,
            ``test_mask``.
        inputs: names of the graph's tensors that the network takes, in order.
        steps: steps of training that are one pass.
        epochs: see `Task`.
        final_epochs: see `Task`.
        keep: see `Task`.

    Raises:
        StudyError: the graph lacks one of these, or the network was never called.

    """
    for name in (*inputs, "y", "train_mask", "val_mask"):
        if not isinstance(data.get(name), Tensor):
            raise StudyError(
                f"a graph whose nodes are classified must have the tensor {name!r}; this one has "
                f"{', '.join(map(str, data.keys()))}. torch_geometric.transforms.RandomNodeSplit makes masks"
            )
    tensors = tuple(data[name] for name in inputs)
    split = {ours: (tensors, (data.y, data[mask])) for ours, mask in SPLITS.items() if mask in data}
    return Task(
        model=with_plain_layers(model),
        example_inputs=tensors,
        train=[split["train"]] * steps,
        validation=[split["validation"]],
        test=[split["test"]] if "test" in split else None,
        calibration=[split["train"]],
        loss=node_loss,
        per_example=right_nodes,
        epochs=epochs,
        final_epochs=final_epochs,
        keep=keep,
    )


def node_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy over a mask's nodes, for a batch ``(inputs, (labels, mask))``."""
    inputs, (labels, mask) = batch
    return functional.cross_entropy(model(*inputs)[mask], labels[mask])


def node_accuracy(model: nn.Module, loader: Loader) -> float:
    """Return the share of the masks' nodes whose largest output is their label, between 0 and 1."""
    return float(right_nodes(model, loader).double().mean())


def right_nodes(model: nn.Module, loader: Loader) -> Tensor:
    """Return 1 for each of the masks' nodes whose largest output is its label, else 0; shape (nodes,)."""
    with torch.no_grad():
        return torch.cat([(model(*inputs).argmax(1) == labels)[mask].float() for inputs, (labels, mask) in loader])


def with_plain_layers(model: nn.Module) -> nn.Module:
    """Return a copy with PyTorch's linear layers in place of PyTorch Geometric's, so that they are found as layers.

    Raises:
        StudyError: a layer does not know its inputs yet.

    """
    from torch_geometric.nn.dense.linear import Linear  # noqa: PLC0415  # optional dependency

    model = copied(model)
    plain: dict[nn.Module, nn.Linear] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, Linear):
            if layer.in_channels < 1:
                raise StudyError(f"a layer learns its inputs when it is first called; {name!r} was not. Call model")
            plain.setdefault(layer, _plain(layer))
            model.set_submodule(name, plain[layer])
    return model


def _plain(layer: nn.Module) -> nn.Linear:
    """Return an equal linear layer, with the same parameters."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    plain.weight = weight
    plain.bias = bias  # type: ignore[assignment]  # a parameter, or None
    return plain.train(layer.training)
