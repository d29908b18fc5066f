"""Graphs whose nodes fall into communities, and networks of PyTorch Geometric over them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of parts of torch that it uses itself
    from torch_geometric.data import Data
    from torch_geometric.nn import GATConv, GCNConv, SAGEConv

CLASSES, FEATURES, WIDTH = 4, 12, 16

KINDS: dict[str, tuple[type[nn.Module], dict[str, object]]] = {
    "gcn": (GCNConv, {}),
    "sage": (SAGEConv, {}),
    "gat": (GATConv, {"heads": 2}),
}


class GraphNet(nn.Module):
    """Two convolutions over a graph, a batch norm between them, and a head."""

    def __init__(self, conv: type[nn.Module] = GCNConv, *, width: int = WIDTH, **form: Any) -> None:
        super().__init__()
        wide = width * form.get("heads", 1)
        self.first = conv(FEATURES, width, **form)
        self.norm = nn.BatchNorm1d(wide)
        self.second = conv(wide, width, **form)
        self.head = nn.Linear(wide, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Map features of shape (nodes, features) to logits (nodes, classes)."""
        x = self.norm(self.first(x, edge_index)).relu()
        logits: Tensor = self.head(self.second(x, edge_index).relu())
        return logits


def communities(nodes: int = 160, *, degree: float = 8.0) -> Data:
    """Return a stochastic block model (Holland et al., Social Networks 1983) whose features hint at the blocks."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(nodes) % CLASSES
    same = labels[:, None] == labels
    chance = torch.where(same, 0.9 * CLASSES, 0.1 * CLASSES / (CLASSES - 1)) * degree / nodes
    one_way = (torch.rand(nodes, nodes, generator=generator) < chance / 2).triu(1)
    edges = (one_way | one_way.T).nonzero().T.contiguous()
    features = torch.randn(nodes, FEATURES, generator=generator)
    features[:, :CLASSES] += 1.2 * nn.functional.one_hot(labels, CLASSES)
    part = torch.rand(nodes, generator=generator)
    return Data(
        x=features,
        edge_index=edges,
        y=labels,
        train_mask=part < 0.5,
        val_mask=(part >= 0.5) & (part < 0.75),
        test_mask=part >= 0.75,
    )


def trained(model: nn.Module, data: Data, *, steps: int = 60) -> nn.Module:
    """Return a network that has learned the classes of the training nodes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(data.x, data.edge_index)[data.train_mask]
        nn.functional.cross_entropy(logits, data.y[data.train_mask]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()
