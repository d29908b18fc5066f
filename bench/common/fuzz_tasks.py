"""Tasks as strangers may bring them: networks, wrappers, labels, loaders, losses and metrics, sound and unsound, mixed.

A recipe names one of each kind; most of it is sound, so that what is wrong is met behind what is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset

from autocompress import Task

CLASSES = 3


class UnmakeableError(Exception):
    """A recipe of what there is not."""


class Stopped(BaseException):
    """What is no `Exception`, as some libraries raise it."""


def raising(error: BaseException) -> Any:
    """Return what raises an error, whatever it is called with."""

    def call(*_: object) -> Any:
        raise error

    return call


ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("no such label\nsecond line"),
    "KeyError": KeyError("x"),
    "nothing said": RuntimeError(),
    "SystemExit": SystemExit(3),
    "StopIteration": StopIteration(),
    "no Exception": Stopped("enough"),
    "AssertionError": AssertionError(),
}


class Forward(nn.Module):
    """A network with a forward of its own.

    Args:
        own: takes the module and its inputs.
        width: of the inputs.
    """

    def __init__(self, own: Callable[[Any, Tensor], Any], width: int = 8) -> None:
        super().__init__()
        self.own, self.width = own, width
        self.body, self.head = nn.Linear(width, 16), nn.Linear(16, CLASSES)
        self.norm = nn.BatchNorm1d(16)
        self.seen: Any = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        """Return what the function gives."""
        return self.own(self, x)


class Last(nn.Module):
    """Gives the last position of a recurrent layer's output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, width)."""
        outputs: Tensor = self.layer(x)[0][:, -1]
        return outputs


def aux(m: Any, x: Tensor) -> Any:
    """Give a second output in training."""
    hidden = m.body(x)
    return (m.head(hidden), hidden) if m.training else m.head(hidden)


def stash(m: Any, x: Tensor) -> Tensor:
    """Keep what was computed."""
    m.seen = m.body(x)
    outputs: Tensor = m.head(m.seen.relu())
    return outputs


def counts(m: Any, x: Tensor) -> Tensor:
    """Count the calls, in place."""
    m.calls += 1
    outputs: Tensor = m.head(m.body(x).relu())
    return outputs


def plain(m: Any, x: Tensor) -> Tensor:
    """Compute what any network does."""
    outputs: Tensor = m.head(m.norm(m.body(x)).relu())
    return outputs


def mlp(*between: nn.Module) -> nn.Module:
    """Return a network of two linear layers with something between them."""
    return nn.Sequential(nn.Linear(8, 16), *between, nn.Linear(16, CLASSES))


def cnn(*between: nn.Module, channels: int = 16) -> nn.Module:
    """Return a network of convolutions with something between them."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


ROW, IMAGE, SOUND, SEQUENCE, WORDS = (8,), (1, 6, 6), (1, 12), (5, 8), (5,)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: mlp(nn.ReLU()), ROW),
    "batch norm": (lambda: mlp(nn.BatchNorm1d(16), nn.ReLU()), ROW),
    "layer norm": (lambda: mlp(nn.LayerNorm(16), nn.GELU(), nn.Dropout()), ROW),
    "one layer": (lambda: nn.Linear(8, CLASSES), ROW),
    "convolutions": (lambda: cnn(nn.BatchNorm2d(16), nn.ReLU()), IMAGE),
    "depthwise": (lambda: cnn(nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6()), IMAGE),
    "group norm, GLU": (lambda: cnn(nn.GroupNorm(4, 16), nn.GLU(1), nn.PReLU(), channels=8), IMAGE),
    "pixel shuffle": (lambda: cnn(nn.PixelShuffle(2), nn.ReLU(), channels=4), IMAGE),
    "transposed": (lambda: cnn(nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), channels=8), IMAGE),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 16, 3),
            nn.ReLU(),
            nn.Conv1d(16, 8, 3),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        ),
        SOUND,
    ),
    "recurrent": (lambda: nn.Sequential(Last(nn.LSTM(8, 16, batch_first=True)), nn.Linear(16, CLASSES)), SEQUENCE),
    "words": (lambda: nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, CLASSES)), WORDS),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, CLASSES)
        ),
        SEQUENCE,
    ),
    "a forward": (lambda: Forward(plain), ROW),
    "auxiliary head": (lambda: Forward(aux), ROW),
    "stashes": (lambda: Forward(stash), ROW),
    "counts": (lambda: Forward(counts), ROW),
    "batch as a number": (lambda: Forward(lambda m, x: m.head(m.body(x.reshape(len(x), -1)))), ROW),
    "branches": (lambda: Forward(lambda m, x: m.head(m.body(x)) if x.mean() > 0 else m.head(m.body(-x))), ROW),
    "dropout on": (lambda: Forward(lambda m, x: m.head(functional.dropout(m.body(x)))), ROW),
    "mixes": (lambda: Forward(lambda m, x: m.head(m.body(x - x.mean(0)))), ROW),
    "in place": (lambda: Forward(lambda m, x: m.head(m.body(x.sub_(1)))), ROW),
    "detached": (lambda: Forward(lambda m, x: m.head(m.body(x)).detach()), ROW),
    "classes": (lambda: Forward(lambda m, x: m.head(m.body(x)).argmax(1)), ROW),
    "a dict": (lambda: Forward(lambda m, x: {"logits": m.head(m.body(x))}), ROW),
    "a tuple": (lambda: Forward(lambda m, x: (m.head(m.body(x)), m.body(x))), ROW),
    "None": (lambda: Forward(lambda m, x: None), ROW),
    "NaN": (lambda: Forward(lambda m, x: m.head(m.body(x)) / 0 * 0), ROW),
    "no layers": (lambda: nn.Flatten(), (CLASSES,)),
    "lazy": (lambda: nn.LazyLinear(CLASSES), ROW),
    **{f"raises {name}": ((lambda e: lambda: Forward(raising(e)))(error), ROW) for name, error in ERRORS.items()},
}
"""What is built, and the shape of an example."""


def pruned(net: nn.Module, example: Tensor) -> nn.Module:
    """Put masks on a layer."""
    from torch.nn.utils import prune

    prune.l1_unstructured(_layer(net), "weight", 0.5)  # type: ignore[no-untyped-call]
    return net


def _layer(net: nn.Module) -> Any:
    return next((m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))), net)


def traced(net: nn.Module, example: Tensor) -> nn.Module:
    """Return TorchScript."""
    found: nn.Module = torch.jit.trace(net.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    return found


def holding(net: nn.Module, example: Tensor) -> nn.Module:
    """Let a network hold what cannot be copied."""
    net.kept = (i for i in range(3))  # type: ignore[assignment]
    return net


WRAPPERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "none": lambda net, x: net,
    "training": lambda net, x: net.train(),
    "frozen": lambda net, x: net.requires_grad_(False),
    "half frozen": lambda net, x: (_layer(net).requires_grad_(False), net)[1],
    "parallel": lambda net, x: nn.DataParallel(net),
    "averaged": lambda net, x: torch.optim.swa_utils.AveragedModel(net),
    "compiled": lambda net, x: torch.compile(net),
    "traced": traced,
    "weight norm": lambda net, x: (nn.utils.parametrizations.weight_norm(_layer(net)), net)[1],
    "spectral norm": lambda net, x: (nn.utils.parametrizations.spectral_norm(_layer(net)), net)[1],
    "masks": pruned,
    "half": lambda net, x: net.half(),
    "bfloat16": lambda net, x: net.bfloat16(),
    "double": lambda net, x: net.double(),
    "a generator in it": holding,
    "a class": lambda net, x: type(net),
    "its weights": lambda net, x: net.state_dict(),
    "a path": lambda net, x: "weights.pth",
}

LABELS: dict[str, Callable[[Tensor], Any]] = {
    "right": lambda y: y,
    "int32": lambda y: y.int(),
    "some left out": lambda y: torch.where(y == 1, -100, y),
    "floats": lambda y: y.float(),
    "a column": lambda y: y[:, None],
    "one hot": lambda y: functional.one_hot(y, CLASSES).float(),
    "void": lambda y: torch.where(y == 1, 255, y),
    "negative": lambda y: y - 1,
    "too many": lambda y: y + 1,
    "NaN": lambda y: y * torch.nan,
    "booleans": lambda y: y == 1,
    "words": lambda y: ["cat"] * len(y),
    "None": lambda y: None,
}


class _Rows(Dataset[Any]):
    def __init__(self, rows: Sequence[Any], fails: bool = False) -> None:
        self.rows, self.fails = rows, fails

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if self.fails and index == len(self.rows) - 1:
            raise OSError("truncated file")
        return self.rows[index]


class _Stream(IterableDataset[Any]):
    def __init__(self, rows: Sequence[Any], *, ends: bool = True, says: int | None = None) -> None:
        self.rows, self.ends, self.says = rows, ends, says

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows) if self.ends else itertools.cycle(self.rows)

    def __len__(self) -> int:
        if self.says is None:
            raise TypeError("a stream has no length")
        return self.says


class _Once:
    def __init__(self, batches: Sequence[Any]) -> None:
        self.left = iter(batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self.left


def rows(batches: Sequence[Any]) -> list[Any]:
    """Return the examples of batches one by one."""
    return [(x[i], None if y is None else y[i]) for x, y in batches for i in range(len(x))]


def changed(batches: Sequence[Any], change: Callable[[Tensor], Any]) -> list[Any]:
    """Return batches of which the last is another one."""
    x, y = batches[-1]
    return [*batches[:-1], (change(x.clone()), y)]


LOADERS: dict[str, Callable[[list[Any], int], Any]] = {
    "a list": lambda batches, size: batches,
    "DataLoader": lambda batches, size: DataLoader(_Rows(rows(batches)), size, shuffle=True),
    "lists": lambda batches, size: [list(batch) for batch in batches],
    "a stream": lambda batches, size: DataLoader(_Stream(rows(batches)), size),
    "says less": lambda batches, size: _Stream(batches, says=1),
    "says more": lambda batches, size: _Stream(batches, says=99),
    "endless": lambda batches, size: _Stream(batches, ends=False),
    "endless, sized": lambda batches, size: _Stream(batches, ends=False, says=4),
    "a generator": lambda batches, size: (batch for batch in batches),
    "once": lambda batches, size: _Once(batches),
    "zip": lambda batches, size: zip([x for x, _ in batches], [y for _, y in batches], strict=True),
    "empty": lambda batches, size: [],
    "None": lambda batches, size: None,
    "raises": lambda batches, size: DataLoader(_Rows(rows(batches), fails=True), size),
    "NaN": lambda batches, size: changed(batches, lambda x: x * torch.nan),
    "wider": lambda batches, size: changed(batches, lambda x: torch.cat([x, x], -1)),
    "doubles": lambda batches, size: changed(batches, Tensor.double),
    "nothing in it": lambda batches, size: changed(batches, lambda x: x[:0]),
    "arrays": lambda batches, size: changed(batches, Tensor.numpy),
    "triples": lambda batches, size: [(x, y, y) for x, y in batches],
    "mappings": lambda batches, size: [{"input": x, "labels": y} for x, y in batches],
    "other mappings": lambda batches, size: [{"image": x, "label": y} for x, y in batches],
    "inputs alone": lambda batches, size: [x for x, _ in batches],
}


def squares(model: nn.Module, batch: Any) -> Tensor:
    """Return a loss that needs no labels."""
    return model(batch[0]).float().square().mean()  # type: ignore[no-any-return]


LOSSES: dict[str, Any] = {
    "default": None,
    "squares": squares,
    "detached": lambda model, batch: squares(model, batch).detach(),
    "a float": lambda model, batch: squares(model, batch).item(),
    "not reduced": lambda model, batch: model(batch[0]).square(),
    "infinite": lambda model, batch: squares(model, batch) / 0,
    "None": lambda model, batch: None,
    **{f"raises {name}": raising(error) for name, error in ERRORS.items()},
}


def spread(model: nn.Module, loader: Any) -> float:
    """Return a metric that needs no labels."""
    with torch.no_grad():
        return float(torch.cat([model(batch[0]).flatten() for batch in loader]).float().std())


def inside(model: Any, loader: Any) -> float:
    """Look into the model."""
    return float(next(m.weight for m in model.children()).mean())


METRICS: dict[str, Any] = {
    "default": None,
    "spread": spread,
    "constant": lambda model, loader: 0.5,
    "random": lambda model, loader: float(torch.rand(())),
    "inside": inside,
    "a tensor": lambda model, loader: torch.tensor(spread(model, loader)),
    "NaN": lambda model, loader: float("nan"),
    "None": lambda model, loader: None,
    **{f"raises {name}": raising(error) for name, error in ERRORS.items()},
}


@dataclass(frozen=True)
class Recipe:
    """One of each kind, by name."""

    network: str = "linear"
    wrapper: str = "none"
    labels: str = "right"
    loader: str = "a list"
    split: str = "train"
    loss: str = "default"
    metric: str = "default"
    size: int = 8
    examples: int = 24
    seed: int = 0


def _mostly(names: Sequence[str], sound: int) -> st.SearchStrategy[str]:
    """Draw one of the first names, which are sound, nine times of ten."""
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(names if number == 9 else names[:sound]))


recipes: st.SearchStrategy[Recipe] = st.builds(
    Recipe,
    network=_mostly([*NETWORKS], 18),
    wrapper=_mostly([*WRAPPERS], 1),
    labels=_mostly([*LABELS], 3),
    loader=_mostly([*LOADERS], 4),
    split=st.sampled_from(["train", "validation", "test", "calibration"]),
    loss=_mostly([*LOSSES], 2),
    metric=_mostly([*METRICS], 2),
    size=st.sampled_from([8, 1, 2, 5]),
    examples=st.sampled_from([24, 9, 17]),
    seed=st.integers(0, 9),
)
"""Draws recipes."""


def made(recipe: Recipe) -> Task:
    """Return the task of a recipe.

    Raises:
        UnmakeableError: PyTorch itself cannot wrap the network so.
    """
    torch.manual_seed(recipe.seed)
    build, shape = NETWORKS[recipe.network]
    x = torch.randint(0, 20, (recipe.examples, *shape)) if shape == WORDS else torch.randn(recipe.examples, *shape)
    y = torch.arange(recipe.examples) % CLASSES
    try:
        net = WRAPPERS[recipe.wrapper](build().eval(), x[:1])
    except BaseException as error:  # as a network that raises whatever it likes while it is traced
        raise UnmakeableError(recipe.wrapper) from error
    starts = range(0, recipe.examples, recipe.size)
    sound = [(x[i : i + recipe.size], y[i : i + recipe.size]) for i in starts]
    labelled = [(inputs, LABELS[recipe.labels](labels)) for inputs, labels in sound]
    given: dict[str, Any] = {
        name: sound if recipe.split != name else labelled for name in ("train", "validation", "test")
    }
    given[recipe.split] = LOADERS[recipe.loader](labelled, recipe.size)
    changes: dict[str, Any] = {"loss": LOSSES[recipe.loss], "metric": METRICS[recipe.metric]}
    return Task(net, x[:1], **given, **{name: value for name, value in changes.items() if value is not None})
