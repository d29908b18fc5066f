"""A small residual network for small images, used by the built-in studies."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm, added to a shortcut.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: step of the first convolution, and of the shortcut's 1×1 convolution where shapes change.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class ResidualNet(nn.Module):
    """A stem, stages of residual blocks, the mean over positions and a linear head.

    Args:
        widths: channels of each stage; every stage after the first halves height and width.
        blocks: residual blocks of each stage.
        channels: channels of the images.
        classes: outputs of the head.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], *, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.Sequential()
        last = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            first = Block(last, width, stride=1 if stage == 0 else 2)
            self.stages.append(nn.Sequential(first, *(Block(width, width) for _ in range(count - 1))))
            last = width
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        logits: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return logits
