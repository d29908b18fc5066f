"""Families of networks, a third pruned and most in INT8, compute in ONNX Runtime what they do in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import ratios
from autocompress.evaluators.ladder.served import Served, parity, source_of
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies.normalize import normalized
from autocompress.studies.task import Task, cross_entropy

Inputs = Any

STEPS, EPOCHS = 30, 6

IN_FLOAT = ("depthwise", "squeeze-excite")
"""Families in which the noise of INT8 is over the tolerance of parity after so little training."""


def images(examples: int, size: int) -> Tensor:
    """Return random images."""
    return torch.randn(examples, 3, size, size)


def sentences(examples: int) -> dict[str, Tensor]:
    """Return random tokens, half of the sentences short."""
    mask = torch.ones(examples, 8, dtype=torch.long)
    mask[examples // 2 :, 4:] = 0
    return {"input_ids": torch.randint(0, 50, (examples, 8)), "attention_mask": mask}


def torchvision_net(name: str, **options: Any) -> nn.Module:
    """Return one of torchvision's networks."""
    torchvision = pytest.importorskip("torchvision")
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=5, **options)
    return model


def densenet() -> nn.Module:
    """Return a small network of concatenations."""
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=5)


def vision_transformer() -> nn.Module:
    """Return torchvision's ViT, small."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=0.2)
    return model


def deit() -> nn.Module:
    """Return timm's ViT, small."""
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5
    )
    return model


def bert() -> nn.Module:
    """Return Hugging Face's BERT, small."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50, num_labels=5
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def task_of(model: nn.Module, make: Callable[[int], Inputs]) -> Task:
    """Return a task of noisy classes; networks with batch norms learn them, as untrained ones amplify any rounding."""
    if isinstance(make(1), dict):
        batches = [(make(4), torch.arange(4)) for _ in range(2)]
        return Task(model.eval(), make(1), train=batches, validation=batches)
    classes, labels = make(5), torch.arange(20) % 5
    batches = [(classes[labels] + 0.3 * make(20), labels) for _ in range(2)]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for step in range(STEPS if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else 0):
        optimizer.zero_grad()
        cross_entropy(model, batches[step % 2]).backward()
        optimizer.step()
    return normalized(Task(model.eval(), classes[:1], train=batches, validation=batches))[0]


def small_images(examples: int) -> Tensor:
    """Return images of 32×32."""
    return images(examples, 32)


FAMILIES = {
    "depthwise": (lambda: torchvision_net("mobilenet_v2", width_mult=0.25), small_images),
    "squeeze-excite": (lambda: torchvision_net("mobilenet_v3_small", width_mult=0.25), small_images),
    "concat": (densenet, small_images),
    "vit": (vision_transformer, small_images),
    "deit": (deit, small_images),
    "bert": (bert, sentences),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_and_in_int8(family: str) -> None:
    """All groups are pruned at once, and all layers rounded, except the families that stay in float."""
    bits = 32 if family in IN_FLOAT else 8
    build, make = FAMILIES[family]
    task = task_of(build(), make)
    network = inspect(task.model, task.examples)
    assert network.groups
    wanted = {group.name: min(ratios(group, 4), key=lambda ratio: abs(ratio - 0.3)) for group in network.groups}
    pruned = {name: ratio for name, ratio in wanted.items() if ratio}
    assert pruned
    supplies = supplies_of(task)
    candidate = Candidate({PRUNING_RATIO: pruned, BITS: {layer.name: bits for layer in network.layers if bits < 32}})
    trained = any(isinstance(module, nn.BatchNorm2d) for module in task.model.modules())
    compressed = apply_candidate(task, candidate, supplies, epochs=EPOCHS if trained else 0)
    assert compressed.macs < apply_candidate(task, Candidate(), supplies, epochs=0).macs
    assert compressed.low_precision > 0.9 or bits == 32
    runtime = load("onnxruntime")
    with runtime.build(runtime.convert(source_of(compressed, supplies)), threads=1) as engine:
        parity(compressed.model, Served(engine), supplies.calibration, tolerance=0.1 if bits < 32 else 0.01)


@pytest.mark.parametrize("family", ["vit", "deit", "bert"])
def test_attention_loses_heads(family: str) -> None:
    """Each transformer has a group of heads for each of its two layers."""
    build, make = FAMILIES[family]
    task = task_of(build(), make)
    network = inspect(task.model, task.examples)
    assert sum(group.granularity > 1 for group in network.groups) == 2


@pytest.mark.filterwarnings("ignore")
def test_channel_shuffle_is_left_alone_with_the_reason() -> None:
    """What cannot be traced can still be quantized."""
    task = task_of(torchvision_net("shufflenet_v2_x0_5"), small_images)
    network = inspect(task.model, task.examples)
    assert len(network.layers) > 50
    assert network.groups or "cannot be traced" in dict(network.left_alone)["(all groups)"]
