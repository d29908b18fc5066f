"""A check looks at what a stranger may bring: networks that are no functions, loaders of any kind, labels, losses."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from autocompress.errors import StudyError
from autocompress.studies.checks import calls
from autocompress.studies.checks.loaders import Bounds
from autocompress.studies.task import Batch, Loader, Task, cross_entropy, right, top1
from autocompress.studies.validate import examine, validate

SOON = Bounds(seconds=20.0, unknown_s=0.3)
X, Y = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4


def net(**more: nn.Module) -> nn.Sequential:
    """Return a small classifier of four classes."""
    made = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for name, module in more.items():
        made.add_module(name, module)
    return made.eval()


def batches(*tensors: Tensor, size: int = 8) -> list[tuple[Tensor, ...]]:
    """Return tensors as a list of batches."""
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def task(model: nn.Module | None = None, data: Any = None, **changes: Any) -> Task:
    """Return a sound task with some parts replaced."""
    data = batches(X, Y) if data is None else data
    return Task(**{"model": model or net(), "example_inputs": X[:1], "train": data, "validation": data} | changes)


def mse(model: nn.Module, batch: Batch) -> Tensor:
    """Return a loss that needs no classes."""
    return functional.mse_loss(model(batch[0]), batch[1])


def mean_output(model: nn.Module, loader: Loader) -> float:
    """Return a metric that needs no classes."""
    with torch.no_grad():
        return float(torch.cat([model(batch[0]).flatten() for batch in loader]).mean())


class Network(nn.Module):
    """A classifier with a forward of its own.

    Args:
        forward: takes the module and its inputs.
    """

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.norm, self.own = nn.Linear(8, 4), nn.BatchNorm1d(4), forward
        self.aux = nn.Linear(8, 400)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.own(self, x)


def in_place(module: Any, x: Tensor) -> Tensor:
    """Change the input."""
    x -= 1
    return module.body(x)  # type: ignore[no-any-return]


def counted(module: Any, x: Tensor) -> Tensor:
    """Answer by how often it was asked."""
    module.calls += 1
    return module.body(x) * module.calls  # type: ignore[no-any-return]


def counting(module: Any, x: Tensor) -> Tensor:
    """Count, and answer all the same."""
    module.calls += 1
    return module.body(x)  # type: ignore[no-any-return]


def modified(module: Any, x: Tensor) -> Tensor:
    """Spoil what the gradient is computed of."""
    hidden = module.body(x).exp()
    hidden += 1
    return hidden  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda m, x: functional.dropout(m.body(x)), "same answer .* two calls differ by .* training=self.training"),
        (counted, "same answer .* It changes 'calls' meanwhile"),
        (in_place, r"must not change its inputs.*x = x - mean"),
        (lambda m, x: m.body(x - x.mean(0)), "alike whatever else is in its batch.*mean over the batch"),
        (lambda m, x: m.body(x).view(4, -1).t(), "alike whatever else is in its batch"),
        (lambda m, x: m.body(x).argmax(1), "must be real numbers; it is a tensor of shape .* int64"),
        (lambda m, x: {"logits": m.body(x)}, "must return one tensor; it returned a dict"),
        (
            lambda m, x: m.body(x) if len(x) in (1, 8) else torch.zeros(2, 8)[3],
            "model\\(\\*inputs\\).* must run.*in <lambda>",
        ),
        (lambda m, x: m.body(x).detach(), "runs without gradients"),
        (modified, r"gradient .* must be computed.*inplace operation.*goes back through is test_checks.py:\d+ in"),
        (lambda m, x: m.body(x) + (0 * m.body.weight).sum().sqrt(), "gradient .* must be finite; that of 'body"),
        (
            lambda m, x: (_ for _ in ()).throw(SystemExit(3)),
            r"run on the example inputs; it raised SystemExit: 3 .test_checks.py",
        ),
    ],
)
def test_a_network_that_is_no_function_is_refused(forward: Any, told: str) -> None:
    """The message has the rule, what came and the way out."""
    with pytest.raises(StudyError, match=told):
        validate(task(Network(forward)))


def test_batch_norms_without_statistics_are_named() -> None:
    """Answers that depend on the batch are reported with the layer that makes them."""
    made = net(norm=nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(StudyError, match="'norm' has no running statistics"):
        validate(task(made))


@pytest.mark.parametrize(
    ("made", "note"),
    [
        (task(Network(counting)), "changes 'calls' in evaluation"),
        (task(Network(lambda m, x: m.body(x) + 0 * x.mean())), "most parameters, .*'aux.weight'|most parameters"),
        (task(net(norm=nn.BatchNorm1d(4)), batches(X[:33], Y[:33])), "batches of one example are skipped in training"),
        (task(metric=lambda model, loader: 0.5), "is 0.5 whatever the model answers"),
        (task(metric=lambda model, loader: random.random()), "differences of that size mean nothing"),
        (
            task(
                nn.Sequential(nn.Unflatten(0, (2, 4)), nn.Flatten(0, 1), net()),
                example_inputs=X[:8],
            ),
            "takes batches of 8 only",
        ),
    ],
)
def test_what_an_owner_should_know_is_noted(made: Task, note: str) -> None:
    """What does no harm is accepted, with a sentence."""
    assert any(re.search(note, each) for each in validate(made).notes)


def test_a_batch_of_one_at_the_end_of_a_loader_is_seen_without_loading_it() -> None:
    """A pass that is cut still knows its last batch."""
    many = DataLoader(TensorDataset(X.repeat(5000, 1)[:-7], Y.repeat(5000)[:-7]), 8)
    found = examine(task(net(norm=nn.BatchNorm1d(4)), many, validation=batches(X, Y)), Bounds(seconds=0.05))
    assert not found.errors
    assert any("of 25,000 batches were looked at" in note for note in found.notes)
    assert any("batches of one example are skipped" in note for note in found.notes)


def test_a_metric_may_ask_its_loader_for_more() -> None:
    """What a loader has besides its batches is there while one batch of it is scored."""

    def share(model: nn.Module, loader: Any) -> float:
        with torch.no_grad():
            hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
        return hits / len(loader.dataset) + 0 * len(loader)

    validate(task(data=DataLoader(TensorDataset(X, Y), 8), metric=share))


def test_a_criterion_is_no_loss() -> None:
    """The way out is a line that can be written down."""
    with pytest.raises(StudyError, match=r"it is CrossEntropyLoss, .* Write loss=lambda model, batch: criterion"):
        validate(task(loss=nn.CrossEntropyLoss()))


class Stream(IterableDataset[Any]):
    """Examples one by one, of which there is no end where `ends` is false."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from zip(X, Y, strict=True)
            if self.ends:
                return


class Once:
    """Gives its batches in the first pass only."""

    def __init__(self) -> None:
        self.left = iter(batches(X, Y))

    def __iter__(self) -> Iterator[Any]:
        yield from self.left


class Sized:
    """Says that it has so many batches, and gives five."""

    def __init__(self, says: int, gives: int = 5) -> None:
        self.says, self.gives = says, gives

    def __len__(self) -> int:
        return self.says

    def __iter__(self) -> Iterator[Any]:
        for i in range(self.gives):
            yield batches(X, Y)[i % 5]


class Broken(Dataset[Any]):
    """Raises for one example."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        if index == 30:
            raise OSError("truncated file")
        return X[index], Y[index]


def with_one(change: Callable[[Tensor], Tensor], of: int = 0) -> list[tuple[Tensor, ...]]:
    """Return batches, of which the fourth is another one."""
    found = [list(batch) for batch in batches(X, Y)]
    found[3][of] = change(found[3][of].clone())
    return [tuple(batch) for batch in found]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (DataLoader(Stream(ends=False), 8), "A pass over `{}` must end.* Give it a __len__"),
        (Once, "`{}` must be iterable again and again.* a second pass gives no batch"),
        (DataLoader(Broken(), 8), r"batch 3, counted from 0, did not come; .*OSError: truncated file .test_checks.py"),
        (DataLoader(Broken(), 8, num_workers=1), r"batch 3.*OSError: truncated file \(test_checks.py:\d+ in"),
        (
            with_one(lambda x: x[:, :7]),
            r"batch 3 of `{}`, counted from 0, are \(N, 7\) float32, the example .*\(N, 8\)",
        ),
        (with_one(Tensor.double), r"batch 3 of `{}`, counted from 0, are \(N, 8\) float64"),
        (with_one(Tensor.to_sparse), "batch 3 of `{}`, counted from 0, is sparse_coo"),
        (with_one(lambda x: x.to("meta")), "batch 3 of `{}`, counted from 0, is on meta"),
        (with_one(lambda x: x[:0]), "batch 3 of `{}`, counted from 0, holds none"),
        (with_one(lambda x: x * torch.nan), "Inputs must be finite numbers; those of batch 3 of `{}`"),
        (with_one(lambda y: y + 1, of=1), "int64 labels go from 1 to 4, and the outputs have 4 classes. Write -100"),
        ([], "`{}` must give at least one batch"),
        ([batches(X, Y)[0], None], r"batch 1 of `?{}|whose batch 1 is a NoneType"),
    ],
)
def test_a_loader_is_looked_through(split: str, loader: Any, told: str) -> None:
    """A batch that does not fit is reported with its number, whichever loader it is of."""
    loader = loader() if isinstance(loader, type) else loader
    with pytest.raises(StudyError, match=told.format(split)):
        validate(task(**{"validation": batches(X, Y), "train": batches(X, Y), split: loader}), SOON)


@pytest.mark.parametrize(
    ("loader", "note"),
    [
        (DataLoader(Stream(ends=True), 8), ""),
        (
            DataLoader(TensorDataset(X, Y), 8, num_workers=2, collate_fn=lambda rows: default_collate(rows)),
            "",
        ),
        (Sized(9), "len() says 9 batches and a pass gives 5"),
        (Sized(5, gives=10**9), "len() says 5 batches and a pass gives more"),
        (Sized(10**6, gives=10**6), "of 1,000,000 batches were looked at before the search"),
        (with_one(lambda y: torch.full_like(y, -100), of=1), ""),
        ([namedtuple("Pair", "image label")(*batch) for batch in batches(X, Y)], ""),
        ([list(batch) for batch in batches(X, Y.int())], ""),
    ],
)
def test_a_loader_that_can_be_trained_on_is_accepted(loader: Any, note: str) -> None:
    """With a sentence where its length is not what it says, or where not all of it was looked at."""
    notes = validate(task(train=loader, validation=batches(X, Y)), Bounds(seconds=2.0)).notes
    assert any(note in each for each in notes) if note else not notes


def test_a_training_loader_that_gives_far_less_than_it_says_is_refused() -> None:
    """A trial would go through it many times for one epoch."""
    with pytest.raises(StudyError, match=r"it is 100, and a pass gives 5\. Fix its __len__, or leave it out"):
        validate(task(train=Sized(100), validation=batches(X, Y)), SOON)


def test_two_inputs_of_a_loaders_own_collation_are_accepted() -> None:
    """Batches ``[[a, b], labels]`` need no `inputs`, no loss and no metric."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([a, b], 1))  # type: ignore[no-any-return]

    rows = [((x, -x), y) for x, y in zip(X, Y, strict=True)]
    made = task(Both(), DataLoader(rows, 8), example_inputs=(X[:1], X[:1]))  # type: ignore[arg-type]
    assert validate(made).task.inputs(next(iter(made.train)))[1].shape == (8, 8)
    assert 0 <= top1(made.model, made.validation) <= 1


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (functional.one_hot(Y).float(), "labels are a tensor of shape .8, 4., float32.* labels.argmax.1. where one"),
        (functional.one_hot(Y), "labels.argmax.1. where one of them is 1"),
        (Y[:, None], "shape .8, 1., int64, and the outputs have shape .N, 4.. Give labels.squeeze.1."),
        (Y.float(), "float32.* Make them classes by .long.."),
        (Y - 1, "int64 labels go from -1 to 2"),
        (torch.where(Y == 3, 255, Y), "from 0 to 255, and the outputs have 4 classes. Write -100"),
        (X, "labels are a tensor of shape .8, 8., float32"),
    ],
)
def test_labels_that_the_default_metric_cannot_count_are_refused(labels: Tensor, told: str) -> None:
    """A default that broadcasts gives a number that means nothing; none is given instead."""
    with pytest.raises(StudyError, match=f"The default metric counts integer labels of shape .*{told}"):
        validate(task(data=batches(X, labels), loss=lambda model, batch: model(batch[0]).square().mean()))


def test_one_output_is_no_class() -> None:
    """A yes or no with one logit needs a metric of its own."""
    yes = batches(X, (Y > 1).float()[:, None])
    with pytest.raises(StudyError, match=r"\(N, 1\)\. Give metric= .* yes or no"):
        validate(task(nn.Linear(8, 1), yes, loss=mse))
    validate(task(nn.Linear(8, 1), yes, loss=mse, metric=mean_output))


def test_positions_are_counted_as_shares_of_an_example() -> None:
    """Of pixels or tokens the default metric is a share too, without those that the loss leaves out."""
    labels = torch.tensor([[0, 0, -100, 1], [-100, -100, -100, -100], [1, 1, 1, 1]])
    outputs = torch.tensor([[1.0], [0.0]]).expand(3, 2, 4)
    found = right(nn.Identity(), [(outputs, labels)])
    assert found.tolist() == pytest.approx([2 / 3, 0.0])
    assert cross_entropy(nn.Identity(), (outputs, labels)).isfinite()


def test_all_that_is_wrong_is_told_at_once() -> None:
    """One look tells the loader, the loss and the metric; what is the same in two loaders is reported once."""
    made = task(
        keep=("no such",), epochs=0, loss=lambda m, b: 1.0, metric=lambda m, b: None, test=with_one(lambda x: x[:, :2])
    )
    with pytest.raises(StudyError, match="5 problems in this study must be fixed") as caught:
        validate(made)
    text = str(caught.value)
    for said in ("`epochs`", "'no such'", "batch 3 of `test`", "`metric(model, loader)` must", "`loss(model, batch)`"):
        assert said in text


def waiting(*_: object) -> Any:
    """Never return, and swallow what is raised to say so."""
    while True:
        try:
            time.sleep(10)
        except Exception:
            continue


def spinning(*_: object) -> Any:
    """Never return."""
    while True:
        pass


@pytest.mark.parametrize("part", ["metric", "loss", "inputs"])
@pytest.mark.parametrize("call", [waiting, spinning])
def test_what_never_returns_is_told_with_its_line(part: str, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the user's has a bound, whatever it waits for, and the check ends."""
    monkeypatch.setattr(calls, "CALL_S", 0.2)
    with pytest.raises(
        StudyError, match=rf"must return within 0.2 s; it has not \(test_checks.py:\d+ in {call.__name__}"
    ):
        validate(task(**{part: call}))


def test_a_thread_of_its_own_has_the_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check may run in any thread of a program."""
    monkeypatch.setattr(calls, "CALL_S", 0.2)
    found: list[object] = []

    def check() -> None:
        try:
            found.append(validate(task(metric=spinning)))
        except StudyError as error:
            found.append(str(error))

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert "must return within 0.2 s" in str(found[0])


def test_ctrl_c_ends_a_check() -> None:
    """What the user presses is not taken for a fault of the study."""

    def pressed(*_: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(task(metric=pressed))


def drawn() -> list[object]:
    """Return what the random states would draw next."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    found = [random.random(), float(np.random.rand()), torch.rand(2).tolist()]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return found


def test_random_states_stay() -> None:
    """Nothing that a loader draws is missed by what comes after the check."""
    made = task(train=DataLoader(TensorDataset(X, Y), 8, shuffle=True), metric=lambda m, b: random.random())
    before = drawn()
    validate(made)
    assert drawn() == before
