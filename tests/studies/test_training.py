"""The shuffled loader, and training that happens once."""

import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import nn

from autocompress.studies.training import Recipe, Shuffled, batches, cache_folder, trained

RECIPE = Recipe(epochs=2, learning_rate=0.01)


def data(**options: int) -> Shuffled:
    """Return ten examples of two numbers in batches of four."""
    inputs = torch.arange(20.0).reshape(10, 2)
    return Shuffled(inputs, torch.arange(10) % 3, **{"batch_size": 4, **options})


def build() -> nn.Module:
    """Return a network whose buffers are part of what is cached."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def make(train: Shuffled | None = None, recipe: Recipe = RECIPE) -> nn.Module:
    """Train, or read from the cache."""
    return trained("small", build, train or data(), recipe, takes="a moment")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep each test's weights apart."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return cache_folder()


def test_a_loader_shuffles_anew_on_each_pass_and_repeats_for_torchs_seed() -> None:
    """Passes differ, the same random stream gives the same passes, and a pass holds full batches without repetition."""

    def passes(seed: int) -> list[torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            loader = data()
            return [torch.cat([labels for _, labels in loader]) for _ in range(3)]

    first = passes(0)
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(old, new) for old, new in zip(first, passes(0), strict=True))
    rows = torch.cat([inputs for inputs, _ in data()])
    assert len(data()) == 2
    assert rows.shape == (8, 2)
    assert len(rows.unique(dim=0)) == 8


def test_a_pass_may_draw_a_part_from_all() -> None:
    """`per_pass` shortens a pass, while passes together see everything."""
    loader = data(per_pass=4)
    assert len(loader) == len(list(loader)) == 1
    assert {float(x) for _ in range(20) for inputs, _ in loader for x in inputs[:, 0]} == {2.0 * i for i in range(10)}


def test_batches_keep_the_order_and_the_rest() -> None:
    """Nothing is left out of an evaluation."""
    parts = batches(torch.arange(5), torch.arange(5), batch_size=2)
    assert [len(labels) for _, labels in parts] == [2, 2, 1]


def test_batches_are_pickled_without_each_other() -> None:
    """A task that goes to another process carries each image once."""
    inputs = torch.zeros(100, 1000)
    assert len(cloudpickle.dumps(batches(inputs, torch.arange(100), batch_size=10))) < 1.1 * inputs.nbytes


def test_training_happens_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call reads the file, says nothing, and gives the same weights in evaluation mode."""
    first = make()
    capsys.readouterr()
    second = make()
    assert capsys.readouterr().err == ""
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert not second.training
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_training_says_so_in_one_line(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    """Without a terminal, standard error gets one line that tells how long it takes and where it is kept."""
    make()
    assert capsys.readouterr().err == f"small: training the network once (a moment; kept in {cache})\n"


def test_training_is_deterministic_and_leaves_the_random_state(cache: Path) -> None:
    """Two trainings give equal weights, whatever the global seed, and do not move it."""
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = make()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    next(cache.iterdir()).unlink()
    torch.manual_seed(2)
    torch.testing.assert_close(make().state_dict(), first.state_dict())


@pytest.mark.parametrize("change", ["recipe", "data", "loader"])
def test_a_change_trains_anew(cache: Path, change: str) -> None:
    """Another recipe, other data or another batch size has a file of its own."""
    make()
    other = data(batch_size=5) if change == "loader" else data()
    if change == "data":
        other.inputs = other.inputs + 1
    make(other, Recipe(epochs=1, learning_rate=0.01) if change == "recipe" else RECIPE)
    assert len(list(cache.iterdir())) == 2


def test_a_corrupted_file_is_trained_anew_with_a_notice(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is cut short costs the training, not an error."""
    first = make()
    path = next(cache.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    torch.testing.assert_close(make().state_dict(), first.state_dict())
    assert "cannot be read" in capsys.readouterr().err
    make()
    assert capsys.readouterr().err == ""


def test_a_file_of_another_network_is_trained_anew(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A readable file with other tensors is noticed as well."""
    make()
    mine = next(cache.iterdir())
    trained("other", lambda: nn.Linear(2, 3), data(), RECIPE, takes="a moment")
    next(path for path in cache.iterdir() if path != mine).replace(mine)
    capsys.readouterr()
    make()
    assert "holds the weights of another network" in capsys.readouterr().err


def test_a_terminal_sees_a_progress_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the line is followed by a bar, and the training is the same."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make()
    shown = capsys.readouterr().err
    assert "small: training the network once" in shown
    assert "━" in shown
