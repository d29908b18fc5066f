"""Tasks over graphs: their batches, losses and accuracies, and layers that are known to be layers."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import StudyError
from autocompress.studies.graphs import STEPS, node_accuracy, node_loss, node_task, with_plain_layers
from autocompress.studies.validate import validate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of parts of torch that it uses itself
    from torch_geometric.data import Data
    from torch_geometric.datasets import KarateClub
    from torch_geometric.nn import GATConv, GCNConv, SAGEConv
    from torch_geometric.nn.dense.linear import Linear
    from torch_geometric.transforms import RandomNodeSplit


class Net(nn.Module):
    """A convolution over a graph, and a head."""

    def __init__(self, conv: nn.Module, width: int) -> None:
        super().__init__()
        self.conv = conv
        self.head = Linear(width, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Map features of shape (nodes, features) to logits (nodes, classes)."""
        logits: Tensor = self.head(self.conv(x, edge_index).relu())
        return logits


@pytest.fixture
def club() -> Data:
    """Return Zachary's karate club, its members split in three."""
    torch.manual_seed(0)
    return RandomNodeSplit(num_val=8, num_test=8)(KarateClub()[0])


@pytest.mark.parametrize(
    ("conv", "width"),
    [(GCNConv(34, 8), 8), (SAGEConv(34, 8), 8), (GATConv(34, 8, heads=2), 16), (GATConv((34, 34), 8), 8)],
    ids=["gcn", "sage", "gat", "gat of two"],
)
def test_plain_layers_compute_the_same(conv: nn.Module, width: int, club: Data) -> None:
    """All linear layers become PyTorch's, to the bit and under their names; the given network stays."""
    model = Net(conv, width).eval()
    before = copy.deepcopy(model.state_dict())
    plain = with_plain_layers(model)
    assert not any(isinstance(module, Linear) for module in plain.modules())
    assert any(isinstance(module, Linear) for module in model.modules())
    torch.testing.assert_close(plain(club.x, club.edge_index), model(club.x, club.edge_index), rtol=0, atol=0)
    assert plain.state_dict().keys() == before.keys()
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_that_two_places_share_stays_shared(club: Data) -> None:
    """One layer under two names becomes one layer."""
    conv = SAGEConv(34, 8)
    conv.lin_r = conv.lin_l
    plain = with_plain_layers(Net(conv, 8))
    assert plain.conv.lin_l is plain.conv.lin_r  # type: ignore[union-attr]


def test_a_layer_that_was_never_called_is_told() -> None:
    """A layer that learns its inputs when it is first called has no weights before."""
    with pytest.raises(StudyError, match="when it is first called; 'lin' was not"):
        with_plain_layers(GCNConv(-1, 8))


def test_a_task_over_a_graph(club: Data) -> None:
    """Every split has all nodes and edges and its own mask, a pass has its steps, and the task is a valid one."""
    task = node_task(Net(GCNConv(34, 8), 8).eval(), club)
    validate(task)
    assert len(task.train) == STEPS  # type: ignore[arg-type]
    assert task.test is not None
    for loader, mask in ((task.train, "train_mask"), (task.validation, "val_mask"), (task.test, "test_mask")):
        inputs, (labels, chosen) = next(iter(loader))
        assert [x.shape for x in inputs] == [x.shape for x in task.examples] == [(34, 34), (2, 156)]
        assert torch.equal(labels, club.y)
        assert torch.equal(chosen, club[mask])


def test_loss_and_accuracy_are_of_the_masks_nodes() -> None:
    """Nodes outside of the mask count for nothing; all batches' nodes count alike."""
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    labels, mask = torch.tensor([0, 1, 1, 1]), torch.tensor([True, False, True, False])
    inputs = (torch.zeros(4, 1), torch.zeros(2, 3, dtype=torch.long))

    class Fixed(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return logits

    assert node_loss(Fixed(), (inputs, (labels, mask))).item() < 1e-3
    assert node_loss(Fixed(), (inputs, (labels, ~mask))).item() == pytest.approx(9.0, abs=1e-3)
    assert node_accuracy(Fixed(), [(inputs, (labels, mask))]) == 1.0
    everyone = torch.ones(4, dtype=torch.bool)
    assert node_accuracy(Fixed(), [(inputs, (labels, everyone)), (inputs, (labels, mask))]) == pytest.approx(4 / 6)


@pytest.mark.parametrize("missing", ["val_mask", "y", "edge_index"])
def test_what_a_graph_lacks_is_named(club: Data, missing: str) -> None:
    """The message says what is missing, what there is, and what makes masks."""
    del club[missing]
    with pytest.raises(StudyError, match=rf"must have the tensor '{missing}'; this one has .*x.*RandomNodeSplit"):
        node_task(Net(GCNConv(34, 8), 8), club)
