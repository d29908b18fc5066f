"""Finds residual branches: modules whose result is added to a tensor of its shape, and that nothing else needs.

A network runs once, and each function that it calls is noted with the tensors that it reads and makes, and with the
modules that are running. Where two tensors are added, whatever only the one is needed for is a branch, if the other is
a shortcut around it. So any forward will do that computes by PyTorch's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from ..modules import LAYERS, RECURRENT, Inputs, evaluating, version

ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
"""Names of the functions that add two tensors."""


@dataclass(frozen=True)
class FoundBranch:
    """A residual branch.

    Attributes:
        name: of the last of its modules that multiplies.
        modules: what it consists of: modules that are needed for nothing else, none of them inside another; with the
            number of results that each returns side by side, None for one alone.
        layers: those of them, and of the modules in them, that multiply.

    """

    name: str
    modules: dict[str, int | None]
    layers: tuple[str, ...]


@dataclass
class _Step:
    """A function that was called, or an input of the network.

    Attributes:
        reads: the steps that made what it reads.
        inside: the modules that were running, the outermost first.
        layer: the one of them that multiplies; empty if there is none.
        adds: the two steps whose results it adds, if these have one shape.
        numbers: whether its results are floating-point numbers.
        made_by: the outermost module that returned its result as it is.

    """

    reads: tuple[int, ...] = ()
    inside: tuple[str, ...] = ()
    layer: str = ""
    adds: tuple[int, ...] = ()
    numbers: bool = True
    made_by: str = ""


class _Run(TorchFunctionMode):
    """The steps of one forward pass.

    Attributes:
        steps: in the order in which they were made.
        results: the steps that each module returned, by the module's name; inner modules first.
        counts: how many results it returned side by side; None for one alone.
        outputs: the steps that made the network's outputs.

    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.results: dict[str, list[int]] = {}
        self.counts: dict[str, int | None] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._multiply = {name for module, name in self._names.items() if isinstance(module, (*LAYERS, *RECURRENT))}
        self._running: list[str] = []
        self._made: dict[int, tuple[Tensor, int, int]] = {}  # keeps each tensor, so that no identity is used twice
        hooks = [module.register_forward_pre_hook(self._enter) for module in self._names]
        hooks += [module.register_forward_hook(self._leave) for module in self._names]
        for x in inputs:
            self._note([x], _Step(numbers=x.is_floating_point()))
        try:
            with evaluating(model), torch.no_grad(), self:
                outputs = model(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.outputs = list(self._known(outputs))

    def __torch_function__(
        self, func: Callable[..., Any], types: Collection[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function, and note what it reads and makes."""
        read = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        reads = tuple(self._known(read))
        alike = len({x.shape for x in read}) == 1 and all(x.is_floating_point() for x in read)
        adds = alike and len(reads) == len(read) == 2 and func.__name__ in ADDITIONS
        result = func(*args, **(kwargs or {}))
        new = [x for x in _pytree.tree_leaves(result) if isinstance(x, Tensor) and self._step_of(x) is None]
        if new:
            layer = next((name for name in self._running if name in self._multiply), "")
            numbers = all(x.is_floating_point() for x in new)
            self._note(new, _Step(reads, tuple(self._running), layer, reads if adds else (), numbers))
        return result

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._running.append(self._names[module])

    def _leave(self, module: nn.Module, _: Any, result: Any) -> None:
        name = self._running.pop()
        made = list(self._known(result))
        self.results.setdefault(name, []).extend(made)
        self.counts[name] = len(result) if isinstance(result, (tuple, list)) else None
        for step in (self.steps[number] for number in made):
            if not step.made_by or step.made_by.startswith(f"{name}."):
                step.made_by = name

    def _note(self, tensors: Sequence[Tensor], step: _Step) -> None:
        self._made |= {id(x): (x, len(self.steps), version(x)) for x in tensors}
        self.steps.append(step)

    def _step_of(self, x: Tensor) -> int | None:
        """Return the step that made a tensor as it is now."""
        _, step, before = self._made.get(id(x), (x, None, -1))
        return step if before == version(x) else None

    def _known(self, tensors: Any) -> Iterator[int]:
        """Yield the steps that made some tensors, of those that were made here."""
        found = (self._step_of(x) for x in _pytree.tree_leaves(tensors) if isinstance(x, Tensor))
        return (step for step in found if step is not None)

    @cached_property
    def needed(self) -> set[int]:
        """The steps that the outputs need."""
        return self.before(self.outputs)

    def before(self, ends: Sequence[int], cut: Collection[tuple[int, int]] = ()) -> set[int]:
        """Return some steps and all that they need, if the first step of each cut would not read the second."""
        found, waiting = set[int](), list(ends)
        while waiting:
            step = waiting.pop()
            if step not in found:
                found.add(step)
                waiting += [read for read in self.steps[step].reads if (step, read) not in cut]
        return found

    def unneeded(self, cut: Collection[tuple[int, int]]) -> set[int]:
        """Return the steps that the outputs would not need any more; see `before`."""
        return self.needed - self.before(self.outputs, cut)

    def layers_of(self, steps: Collection[int]) -> set[str]:
        """Return the layers that some steps are of."""
        return {self.steps[step].layer for step in steps} - {""}

    def around(self, addition: int, branch: int, shortcut: int) -> bool:
        """Return whether one of the results that are added is a shortcut around the other.

        What the branch needs has come there without a layer; or by one of its own, while the branch has several.
        """
        needed, waiting, seen = self.before([branch]), [shortcut], set[int]()
        while waiting:
            step = waiting.pop()
            if step in needed:
                return True
            if step not in seen and self.steps[step].numbers and not self.steps[step].layer:
                seen.add(step)
                waiting += self.steps[step].reads
        own, others = (self.layers_of(self.unneeded({(addition, each)})) for each in (shortcut, branch))
        return len(own) == 1 < len(others)

    def end(self, branch: int) -> str:
        """Return the module that made a result, perhaps with functions after it; a name of its own for no module."""
        step = branch
        while not self.steps[step].made_by and self.steps[step].reads:
            step = max(self.steps[step].reads)
        return self.steps[step].made_by or str(branch)

    def modules_of(self, gone: set[int]) -> dict[str, int | None]:
        """Return the modules that have none but these steps, without those inside another, in order; with `counts`."""
        ran = {name: set(made) & self.needed for name, made in self.results.items()}
        for number in self.needed:
            for name in self.steps[number].inside:
                ran[name].add(number)
        whole = {name for name, steps in ran.items() if name and steps and steps <= gone}
        return {name: self.counts[name] for name in self.results if name in whole and not _is_inside(name, whole)}


def _is_inside(name: str, names: Collection[str]) -> bool:
    """Return whether one of some modules holds a module.

    >>> _is_inside("block.conv.0", {"block"}), _is_inside("block", {"block"})
    (True, False)
    """
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return True
    return False


def find_branches(model: nn.Module, inputs: Inputs) -> list[FoundBranch]:
    """Return the residual branches of a network, in order; see the module. They are not tried.

    A branch has a layer, and leaves others. Modules that run several times are one branch, if each time they are.
    """
    run = _Run(model, inputs)
    layers = list(dict.fromkeys(step.layer for step in run.steps if step.layer))
    cuts: dict[str, list[tuple[int, int]]] = {}
    for number in sorted(run.needed):
        for branch, shortcut in _both_ways(run.steps[number].adds):
            if run.around(number, branch, shortcut):
                cuts.setdefault(run.end(branch), []).append((number, branch))
    found: dict[str, FoundBranch] = {}
    for cut in cuts.values():
        modules = run.modules_of(run.unneeded(cut))
        inner = tuple(layer for layer in layers if layer in modules or _is_inside(layer, modules))
        if inner and len(inner) < len(layers):
            name = next(m for m in reversed(modules) if m in inner or any(_is_inside(x, {m}) for x in inner))
            found.setdefault(name, FoundBranch(name, modules, inner))
    return list(found.values())


def _both_ways(pair: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    if len(set(pair)) == 2:
        one, other = pair
        yield one, other
        yield other, one
