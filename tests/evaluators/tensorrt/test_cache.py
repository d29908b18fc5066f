"""What is kept of earlier builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autocompress.evaluators.tensorrt import cache
from autocompress.evaluators.tensorrt.build import Built


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache.folder()


def built(content: bytes) -> Built:
    """Return an engine without timings."""
    return Built(plan=content, timing_cache=b"", log=(), sparse_layers=())


def test_only_the_engines_that_were_used_last_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Using one counts, not only building it."""
    monkeypatch.setattr(cache, "KEPT", 2)
    for age, key in enumerate(("first", "second")):
        cache.cached(key, "here", lambda _: built(b"a plan"))
        os.utime(place / f"{key}.plan", (age, age))
    cache.cached("first", "here", lambda _: pytest.fail("it was kept"))
    cache.cached("third", "here", lambda _: built(b"a plan"))
    assert sorted(path.stem for path in place.glob("*.plan")) == ["first", "third"]


def test_timings_are_kept_apart_by_place() -> None:
    """Those of another GPU or version are not handed to a build."""
    seen = []

    def build(timings: bytes) -> Built:
        seen.append(timings)
        return Built(plan=b"a plan", timing_cache=timings + b"+", log=(), sparse_layers=())

    for key, place in (("a", "here"), ("b", "here"), ("c", "there")):
        cache.cached(key, place, build)
    assert seen == [b"", b"+", b""]


def test_an_engine_of_a_stranger_is_not_run(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where others may write, nothing is read and nothing is kept, and a warning tells the way out."""
    place.mkdir(parents=True)
    (place / "key.plan").write_bytes(b"a stranger's plan")
    place.chmod(0o777)
    assert cache.cached("key", "here", lambda _: built(b"a plan")) == b"a plan"
    assert (place / "key.plan").read_bytes() == b"a stranger's plan"
    assert "make it your own" in caplog.text
    place.chmod(0o700)
    assert cache.cached("key", "here", lambda _: built(b"a plan")) == b"a stranger's plan"
