"""A driver that joins a study reuses its first driver's start, or is refused with what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import RunDirectoryError
from autocompress.storage.backends import close_storage, open_database
from autocompress.storage.fingerprint import fingerprint_of
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.shared_start import prepare_exclusively
from autocompress.studies.task import Task

IDENTITY = {"study": "shared", "threads": "1"}

Joined = Callable[..., Path]


def task(weight: float, metric: float = 1.0) -> Task:
    """Return a task with a network of one weight and a metric that is the same for all."""
    import torch
    from torch import nn

    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    data = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))]
    return Task(model, torch.ones(1, 1), data, data, metric=lambda model, loader: metric)


@pytest.fixture
def joined(server: Any, tmp_path: Path) -> Iterator[Joined]:
    """Prepare a driver of one study, which finds a profile of its own unless it is given one; return its directory."""
    database = open_database(server.database())
    with ExitStack() as stack:
        stack.callback(close_storage, database)

        def join(name: str, mine: Task, threads: str = "1") -> Path:
            rundir = stack.enter_context(closing(RunDirectory(tmp_path / name, {"study": name})))
            identity, fingerprint = {**IDENTITY, "threads": threads}, fingerprint_of(mine)
            with prepare_exclusively(database, mine, rundir, identity, lambda text: None, fingerprint):
                if not (rundir.path / "profile.json").exists():
                    rundir.write_json("profile.json", {"by": name})
                    rundir.write_json("calibration.json", {"by": name})
            return rundir.path

        yield join


def test_the_first_ones_profile_is_everybodys(joined: Joined) -> None:
    """A second driver of the same network makes no profile of its own."""
    joined("first", task(1.0))
    second = joined("second", task(1.0))
    assert (second / "profile.json").read_text() == '{\n  "by": "first"\n}\n'
    assert (second / "calibration.json").read_text() == '{\n  "by": "first"\n}\n'


def test_another_network_is_refused(joined: Joined) -> None:
    """Weights that differ in anything are another network's."""
    joined("first", task(1.0))
    with pytest.raises(RunDirectoryError, match=r"must have the same weights; 'shared' was started with .* --storage"):
        joined("second", task(1.0000001))


def test_another_metric_is_refused(joined: Joined) -> None:
    """The same network, judged by something else, is another study."""
    joined("first", task(1.0))
    with pytest.raises(RunDirectoryError, match=r"'shared' was started with has another metric\. .*--storage"):
        joined("second", task(1.0, metric=2.0))


def test_other_settings_are_refused(joined: Joined) -> None:
    """All drivers measure the same thing."""
    joined("first", task(1.0))
    with pytest.raises(RunDirectoryError, match="must have the same threads; 'shared' was started with '1', this one"):
        joined("second", task(1.0), threads="2")
