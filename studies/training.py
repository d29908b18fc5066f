"""Train a study's network once, keep it in a cache, and serve images from memory."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import write_atomically
from .task import cross_entropy


def unchanged(images: Tensor) -> Tensor:
    """Return the images as they are."""
    return images


class Shuffled:
    """Full batches from memory, in another order on each pass, drawn from torch's random state like a DataLoader's.

    Args:
        inputs: examples first, (N, …).
        labels: (N,), integers.
        batch_size: examples in a batch.
        per_pass: examples that one pass draws from all of them, at most; by default all.
        prepare: maps a batch of inputs to what the network takes.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        per_pass: int | None = None,
        prepare: Callable[[Tensor], Tensor] = unchanged,
    ) -> None:
        self.inputs, self.labels, self.batch_size, self.prepare = inputs, labels, batch_size, prepare
        self.per_pass = len(labels) if per_pass is None else min(per_pass, len(labels))

    def __len__(self) -> int:
        return self.per_pass // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels))[: len(self) * self.batch_size]
        for chosen in order.reshape(-1, self.batch_size):
            yield self.prepare(self.inputs[chosen]), self.labels[chosen]


def batches(inputs: Tensor, labels: Tensor, *, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Return all examples in order as a list of batches.

    They are copies: a view would be pickled with the whole tensor behind it.
    """
    starts = range(0, len(labels), batch_size)
    return [(inputs[i : i + batch_size].clone(), labels[i : i + batch_size].clone()) for i in starts]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum under a one-cycle schedule."""

    epochs: int
    learning_rate: float
    weight_decay: float = 5e-4
    seed: int = 0


def cache_folder() -> Path:
    """Return ``$AUTOCOMPRESS_CACHE``, or ``~/.cache/autocompress``."""
    return Path(os.environ.get("AUTOCOMPRESS_CACHE") or Path.home() / ".cache" / "autocompress")


def trained(name: str, build: Callable[[], nn.Module], train: Shuffled, recipe: Recipe, *, takes: str) -> nn.Module:
    """Return the network of `build` in evaluation mode, trained on the first call and read from the cache later.

    The file's name holds a fingerprint of architecture, recipe and data, so that a change of any trains again.
    The global random state of torch is left as it was.

    Args:
        name: of the study; begins the file's name.
        build: makes the untrained network.
        train: what to train on.
        recipe: how to train.
        takes: how long the training takes, for the message (``"about a minute"``).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = build()
        path = cache_folder() / f"{name}-{_fingerprint(model, train, recipe)}.safetensors"
        weights = _read(path, model)
        if weights is None:
            title = f"{name}: training the network once ({takes}; kept in {path.parent})"
            with _all_cores(), _progress(title, recipe.epochs * len(train)) as advance:
                fit(model, train, recipe, advance)
            write_atomically(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
        else:
            model.load_state_dict(weights)
    return model.eval()


def _fingerprint(model: nn.Module, train: Shuffled, recipe: Recipe) -> str:
    """Return 12 hexadecimal digits that change with the architecture, the recipe, and the training data."""
    digest = hashlib.sha256(f"{model}|{recipe}|{train.batch_size}|{train.per_pass}".encode())
    for tensor in (train.inputs, train.labels, train.prepare(train.inputs[:1])):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(path: Path, model: nn.Module) -> Mapping[str, Tensor] | None:
    """Return the weights in a file, or None where there is no file or it does not hold weights of this model."""
    if not path.exists():
        return None
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        print(f"{path} cannot be read ({error}); the network is trained again", file=sys.stderr)
        return None
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        print(f"{path} holds the weights of another network; the network is trained again", file=sys.stderr)
        return None
    return weights


def fit(model: nn.Module, train: Shuffled, recipe: Recipe, advance: Callable[[], object] = bool) -> None:
    """Train in place; `advance` is called after each step."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.epochs * len(train)
    )
    model.train()
    for _ in range(recipe.epochs):
        for batch in train:
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance()


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use all cores of this process for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(title: str, steps: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, or one line elsewhere; yield the function that advances it."""
    if not sys.stderr.isatty():
        print(title, file=sys.stderr)
        yield lambda: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task(title, total=steps)
        yield lambda: bar.advance(job)
