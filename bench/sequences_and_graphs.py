"""A network with an LSTM over sequences of words and a GCN over a graph, trained on data that are drawn here.

    python bench/sequences_and_graphs.py

prints how long ONNX Runtime runs LSTMs in INT8, as a ratio to float.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from common.environment import describe
from runtimes import QUICK
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Latency
from autocompress.evaluators.meters.latency import SEARCH, Plan, ProcessMeter
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import Candidate
from autocompress.studies.graphs import node_task
from autocompress.studies.task import Task, cross_entropy
from autocompress.studies.training import Shuffled, batches

WORDS, STEPS, TOPICS = 240, 32, 4
FEATURES, COMMUNITIES, NODES, DEGREE = 16, 4, 2000, 8.0


class Reader(nn.Module):
    """An embedding of words, an LSTM, and two linear layers on its last step."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.middle = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, TOPICS)

    def forward(self, words: Tensor) -> Tensor:
        """Map words of shape (N, steps) to logits (N, topics)."""
        logits: Tensor = self.head(self.middle(self.lstm(self.embed(words))[0][:, -1]).relu())
        return logits


def lstm_task(*, hidden: int = 128, epochs: int = 6) -> Task:
    """Return the task of telling the topic that most words of a sequence are from."""
    torch.manual_seed(0)
    topics = torch.randint(0, TOPICS, (1536,))
    on_topic = torch.rand(len(topics), STEPS) < 0.4
    other = torch.randint(0, TOPICS, (len(topics), STEPS))
    size = WORDS // TOPICS
    words = torch.where(on_topic, topics[:, None], other) * size + torch.randint(0, size, (len(topics), STEPS))
    train = Shuffled(words[:1024], topics[:1024], batch_size=32)
    model = Reader(hidden)
    _fit(model, lambda: (cross_entropy(model, batch) for batch in train), epochs)
    return Task(
        model=model.eval(),
        example_inputs=words[:1].clone(),
        train=Shuffled(words[:1024], topics[:1024], batch_size=32, per_pass=512),
        validation=batches(words[1024:1280], topics[1024:1280], batch_size=64),
        test=batches(words[1280:], topics[1280:], batch_size=64),
    )


def gcn_task(*, width: int = 128, epochs: int = 60) -> Task:
    """Return the task of telling the block of each node of a stochastic block model (Holland et al., 1983)."""
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    class Gcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GCNConv(FEATURES, width), GCNConv(width, width)
            self.head = nn.Linear(width, COMMUNITIES)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            hidden = self.second(self.first(x, edge_index).relu(), edge_index).relu()
            logits: Tensor = self.head(hidden)
            return logits

    torch.manual_seed(0)
    blocks = torch.arange(NODES) % COMMUNITIES
    inside, outside = 0.8 * COMMUNITIES, 0.2 * COMMUNITIES / (COMMUNITIES - 1)
    chance = torch.where(blocks[:, None] == blocks, inside, outside) * DEGREE / NODES
    pairs = (torch.rand(NODES, NODES) < chance / 2).triu(1)
    features = torch.randn(NODES, FEATURES)
    features[:, :COMMUNITIES] += functional.one_hot(blocks, COMMUNITIES)
    part = torch.rand(NODES)
    data = Data(
        x=features,
        edge_index=(pairs | pairs.T).nonzero().T.contiguous(),
        y=blocks,
        train_mask=part < 0.5,
        val_mask=(part >= 0.5) & (part < 0.75),
        test_mask=part >= 0.75,
    )
    model = Gcn()

    def losses() -> list[Tensor]:
        logits = model(data.x, data.edge_index)[data.train_mask]
        return [functional.cross_entropy(logits, blocks[data.train_mask])]

    _fit(model, losses, epochs)
    return node_task(model.eval(), data)


def _fit(model: nn.Module, losses: Callable[[], object], epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    model.train()
    for _ in range(epochs):
        for loss in losses():  # type: ignore[attr-defined]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def integer_latency(hidden: int, plan: Plan) -> Latency:
    """Return the latency in INT8 of a network with an LSTM, as a ratio to the interleaved float one."""
    torch.manual_seed(0)
    words = [torch.randint(0, WORDS, (8, STEPS)) for _ in range(4)]
    labelled = [(batch, torch.zeros(8, dtype=torch.long)) for batch in words]
    task = Task(model=Reader(hidden).eval(), example_inputs=words[0][:1], train=labelled, validation=labelled)
    runtime = load("onnxruntime")
    supplies = supplies_of(task, integers=runtime.capabilities.integers)
    candidates = (Candidate(), Candidate({"bits": {"lstm": 8}}))
    files = [runtime.convert(source_of(apply_candidate(task, c, supplies, epochs=0), supplies)) for c in candidates]
    meter = ProcessMeter(baseline=files[0], runtime=runtime.name, inputs=[x.numpy() for x in supplies.examples])
    return replace(meter, baseline_ms=meter.calibrate(plan).median_ms).measure(files[1], plan)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one width, short windows: a smoke test")
    asked = parser.parse_args()
    print(f"{describe(load('onnxruntime'))}\n\nhidden   float ms   INT8 over float")
    for hidden in (128,) if asked.quick else (128, 256, 512):
        latency = integer_latency(hidden, QUICK if asked.quick else SEARCH)
        print(f"{hidden:6}   {latency.baseline_ms:8.3f}   {latency.ratio:.3f} ±{latency.half_width:.3f}", flush=True)


if __name__ == "__main__":
    main()
