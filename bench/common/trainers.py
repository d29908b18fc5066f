"""What else may run on a machine while something is measured: trainers of ours, which pause, and strangers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CONDITIONS = (
    ("quiet", 0, True),
    ("one trainer of ours", 1, True),
    ("two trainers of ours", 2, True),
    ("one stranger training", 1, False),
    ("two strangers training", 2, False),
)
"""What else runs: its name, how many trainers, and whether they pause."""

TRAINER = """
import os, torch
from autocompress.evaluators.device_lock import pause, training
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(6)])
optimizer = torch.optim.SGD(model.parameters(), 0.01)
images = torch.randn(16, 32, 32, 32)
if {ours}:
    os.nice(19)
    floor = training()
    floor.__enter__()
def step():
    if {ours}:
        pause()
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()
step()
print("training", flush=True)
while os.getppid() == {parent}:
    step()
"""


@contextmanager
def trainers(count: int, *, ours: bool) -> Iterator[None]:
    """Train in so many processes; all of them do when this yields."""
    command = [sys.executable, "-c", TRAINER.format(ours=ours, parent=os.getpid())]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
