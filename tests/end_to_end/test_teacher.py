"""The teacher is asked once about each batch, by whichever worker needs it first."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from my_study import Net, batches, trained
from torch import nn


def note(path, x, more=""):
    with open(path, "ab", buffering=0) as file:
        file.write(f"{sha256(x.numpy().tobytes()).hexdigest()}{more}\\n".encode())


class Teacher(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.path = net, str(Path("asked.txt").absolute())

    def forward(self, x):
        if len(x) == 32:
            note(self.path, x, "-bfloat16" if torch.is_autocast_enabled("cpu") else "")
        return self.net(x)


class Shifted:
    def __init__(self):
        self.batches = batches(10, 0)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for i in torch.randperm(len(self.batches)).tolist():
            images, labels = self.batches[i]
            yield images + 0.1 * torch.randn(len(images), 1, 1, 1), labels


class Loss:
    path = str(Path("trained.txt").absolute())

    def __call__(self, model, batch):
        if model.training:
            note(self.path, batch[0])
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def task():
    torch.manual_seed(0)
    plain = trained(Net())
    return replace(
        plain, teacher=Teacher(plain.model).eval(), train=Shifted(), loss=Loss(), distance="softmax",
        epochs=1, final_epochs=2,
    )
"""


def test_two_workers_ask_the_teacher_once_about_a_batch(folder: Path, warm: Command) -> None:
    """Two may want the same one at one moment; all else is found."""
    (folder / "taught.py").write_text(STUDY)
    line = ("taught.py", "--target-latency", "50ms", "--runtime", "fake", "--workers", 2, "--trials", 10)
    done = warm(folder, *line, "--out", "run")
    assert done.returncode == 0, done.stderr
    asked, trained = (Counter((folder / name).read_text().split()) for name in ("asked.txt", "trained.txt"))
    assert {batch.partition("-")[0] for batch in asked} <= set(trained)
    assert max(asked.values()) <= 2
    assert asked.total() <= 1.25 * len(asked)
    assert trained.total() > 1.25 * asked.total()
    assert (folder / "run" / "answers").is_dir()
