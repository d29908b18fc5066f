"""Files of trials that no disk is shared for: uploaded whole or not at all, checked, and deleted."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from autocompress.errors import LostError, UsageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.pareto.front import select
from autocompress.search.workers.base import LostTrial
from autocompress.search.workers.shipping import WithArtifacts, fetch_outcome
from autocompress.spaces.candidate import Candidate
from autocompress.storage import artifacts as module
from autocompress.storage.artifacts import ArtifactStore, LocalArtifacts, RemoteArtifacts, check_artifacts
from autocompress.storage.study_store import StudyStore

NAME = "trials/00001"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(module, "WAITS_S", (0.0, 0.0))


@pytest.fixture(params=["file", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteArtifacts]:
    """Return a place of each kind."""
    if request.param == "file":
        yield RemoteArtifacts(f"file://{tmp_path}/remote")
        return
    name = uuid.uuid4().hex
    yield RemoteArtifacts(f"memory://{name}")
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True) if fsspec.filesystem("memory").exists(name) else None


def filled(root: Path, folder: str = NAME, content: bytes = b"weights") -> Path:
    """Return a root with a request's folder."""
    (root / folder / "deep").mkdir(parents=True, exist_ok=True)
    (root / folder / "model.onnx").write_bytes(content)
    (root / folder / "deep" / "x").write_bytes(b"x")
    return root


def found(root: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def kept(remote: RemoteArtifacts) -> list[str]:
    """Return all files at a place."""
    files, path = fsspec.core.url_to_fs(remote.url)
    return sorted(files.find(path)) if files.exists(path) else []


def test_a_folder_comes_back_as_it_was_put(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """All files with their folders, or the one that was asked for; a folder that was never put is not there."""
    remote.put(filled(tmp_path / "a"), NAME)
    assert remote.get(tmp_path / "b", NAME)
    assert found(tmp_path / "b") == found(tmp_path / "a")
    assert remote.get(tmp_path / "c", NAME, "model.onnx")
    assert found(tmp_path / "c") == {f"{NAME}/model.onnx": b"weights"}
    assert not remote.get(tmp_path / "d", NAME, "nothing")
    assert not remote.get(tmp_path / "d", "trials/00002")
    assert not (tmp_path / "d").exists()


def test_a_second_upload_takes_the_place_of_the_first(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """Another content of the same length is seen, and nothing of the old one is left."""
    remote.put(filled(tmp_path / "a"), NAME)
    remote.get(tmp_path / "b", NAME)
    remote.put(filled(tmp_path / "a", content=b"WEIGHTS"), NAME)
    assert remote.get(tmp_path / "b", NAME)
    assert found(tmp_path / "b") == found(tmp_path / "a")
    assert len(kept(remote)) == 3


def test_an_upload_that_died_is_no_folder(
    remote: RemoteArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the manifest is written there is nothing, or still what was there before; half a manifest is none."""
    files, _ = fsspec.core.url_to_fs(remote.url)
    with monkeypatch.context() as patch:
        patch.setattr(type(files), "pipe_file", _die)
        for before in (False, True):
            with pytest.raises(_Died):
                remote.put(filled(tmp_path / "a", content=b"new"), NAME)
            assert remote.get(tmp_path / "b", NAME) == before
            if before:
                assert (tmp_path / "b" / NAME / "model.onnx").read_bytes() == b"weights"
            else:
                patch.undo()
                remote.put(filled(tmp_path / "a"), NAME)
                patch.setattr(type(files), "pipe_file", _die)
    [manifest] = [path for path in kept(remote) if path.endswith(module.MANIFEST)]
    content = files.cat_file(manifest)
    files.pipe_file(manifest, content[: len(content) // 2])
    assert not remote.get(tmp_path / "c", NAME)
    remote.delete(NAME)
    assert kept(remote) == []
    remote.delete(NAME)


class _Died(BaseException):
    """The death of a process: nothing may catch it."""


def _die(*_: Any, **__: Any) -> None:
    raise _Died


def test_what_is_damaged_is_not_taken(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """A file that is not what was uploaded is an error that tells where and why."""
    remote.put(filled(tmp_path / "a"), NAME)
    files, _ = fsspec.core.url_to_fs(remote.url)
    [model] = [path for path in kept(remote) if path.endswith("model.onnx")]
    files.pipe_file(model, b"WEIGHTS")
    with pytest.raises(LostError, match=rf"{remote.url} could not be read \(OSError: model.onnx is damaged\)"):
        remote.get(tmp_path / "b", NAME)


def tampered(remote: RemoteArtifacts, **changes: Any) -> None:
    """Change the manifest of an uploaded folder, as anyone who may write to the store can."""
    files, _ = fsspec.core.url_to_fs(remote.url)
    [manifest] = [path for path in kept(remote) if path.endswith(module.MANIFEST)]
    files.pipe_file(manifest, json.dumps({**json.loads(files.cat_file(manifest)), **changes}).encode())


DIGEST = hashlib.sha256(b"evil").hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "../../../pwned",
        "..",
        ".",
        "",
        "/etc/pwned",
        "a/../../../../pwned",
        "a//b",
        "./a",
        "deep/..",
        "C:\\pwned",
        "a\0b",
    ],
)
def test_a_manifest_cannot_write_outside(name: str, remote: RemoteArtifacts, tmp_path: Path) -> None:
    """A name that is no file below the trial's folder is an error at once, and nothing at all is written."""
    remote.put(filled(tmp_path / "a"), NAME)
    tampered(remote, files={"model.onnx": DIGEST, name: DIGEST})
    before = found(tmp_path)
    with pytest.raises(LostError, match=r"must name files inside its folder; it names .* nothing was taken"):
        remote.get(tmp_path / "run", NAME)
    assert found(tmp_path) == before


@pytest.mark.parametrize("place", ["../../../precious", "..", "", "/", "a" * 31, "A" * 32, None, 7])
def test_a_manifest_cannot_delete_elsewhere(place: object, remote: RemoteArtifacts, tmp_path: Path) -> None:
    """A place that is none of an upload's is neither read from nor deleted."""
    files, root = fsspec.core.url_to_fs(remote.url)
    files.makedirs(f"{root}/precious", exist_ok=True)
    files.pipe_file(f"{root}/precious/thesis.tex", b"all of it")
    remote.put(filled(tmp_path / "a"), NAME)
    tampered(remote, place=place)
    for act in (remote.put, remote.get):
        with pytest.raises(LostError, match="32 hexadecimal digits"):
            act(tmp_path / "a", NAME)
    assert files.cat_file(f"{root}/precious/thesis.tex") == b"all of it"


@pytest.mark.parametrize("content", [b"[]", b"7", b"{}", b'{"place": "' + b"a" * 32 + b'", "files": ["model.onnx"]}'])
def test_a_manifest_of_another_shape_is_told(content: bytes, remote: RemoteArtifacts, tmp_path: Path) -> None:
    """It is an error of ours, and no other."""
    remote.put(filled(tmp_path / "a"), NAME)
    files, _ = fsspec.core.url_to_fs(remote.url)
    [manifest] = [path for path in kept(remote) if path.endswith(module.MANIFEST)]
    files.pipe_file(manifest, content)
    with pytest.raises(LostError, match="autocompress has not written that"):
        remote.get(tmp_path / "b", NAME)


@pytest.mark.parametrize("place", ["trials", NAME, f"{NAME}/deep"])
def test_a_link_in_a_run_directory_leads_nowhere(place: str, remote: RemoteArtifacts, tmp_path: Path) -> None:
    """What is downloaded stays inside, whatever has been put there."""
    remote.put(filled(tmp_path / "a"), NAME)
    (tmp_path / "home").mkdir()
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "home")
    with pytest.raises(LostError, match="a link leads"):
        remote.get(tmp_path / "run", NAME)
    assert found(tmp_path / "home") == {}


def test_a_link_is_not_uploaded(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """Nobody gets a file from outside of a trial's folder."""
    (tmp_path / "secret").write_bytes(b"secret")
    ((filled(tmp_path / "a") / NAME) / "link").symlink_to(tmp_path / "secret")
    remote.put(tmp_path / "a", NAME)
    assert not any(path.endswith("link") for path in kept(remote))


def test_models_of_two_drivers_do_not_meet(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """Drivers of one study share its trials, and finish models each for itself."""
    other = dataclasses.replace(remote, driver="other")
    for driver, content in ((remote, b"mine"), (other, b"yours")):
        driver.put(filled(tmp_path / driver.driver, "models/00001", content), "models/00001")
    remote.put(filled(tmp_path / "a"), NAME)
    assert remote.get(tmp_path / "b", "models/00001")
    assert (tmp_path / "b" / "models/00001/model.onnx").read_bytes() == b"mine"
    assert other.get(tmp_path / "c", NAME)


def test_a_passing_failure_is_overcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers the third time has done its work; one that never does is an error."""
    remote, failures = RemoteArtifacts(f"file://{tmp_path}/remote"), [OSError("once"), OSError("twice")]
    files, _ = fsspec.core.url_to_fs(remote.url)
    pipe = type(files).pipe_file

    def flaky(*args: Any, **how: Any) -> Any:
        if failures:
            raise failures.pop()
        return pipe(*args, **how)

    monkeypatch.setattr(type(files), "pipe_file", flaky)
    remote.put(filled(tmp_path / "a"), NAME)
    assert remote.get(tmp_path / "b", NAME)
    failures += [OSError("again")] * 3
    with pytest.raises(LostError, match=r"could not be written \(OSError: again"):
        remote.put(filled(tmp_path / "a"), NAME)


def test_a_url_is_checked_by_using_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works leaves nothing behind, and a relative path becomes the driver's; the folder is made."""
    monkeypatch.chdir(tmp_path)
    assert check_artifacts(f"file://{tmp_path}/new/", 2) == f"file://{tmp_path}/new"
    assert check_artifacts("some/where", 2) == f"file://{tmp_path}/some/where"
    assert check_artifacts("memory://place", 0) == "memory://place"
    assert found(tmp_path) == {}


@pytest.mark.parametrize(
    ("url", "workers", "message"),
    [
        ("nonsense://x", 1, r"got 'nonsense://x': Protocol not known: nonsense"),
        ("memory://x", 2, r"each process has for itself. Give --workers 0"),
        ("memory://x", None, r"each process has for itself"),
        ("file:///proc/nowhere", 1, r"got 'file:///proc/nowhere': .* could not be written"),
    ],
)
def test_a_wrong_url_is_refused(url: str, workers: int | None, message: str) -> None:
    """The message has the rule, the value and the way out."""
    with pytest.raises(UsageError, match=rf"--artifacts must be the URL.*s3://.*{message}"):
        check_artifacts(url, workers)


def test_a_missing_package_is_named() -> None:
    """So is the package that a file system needs."""
    fsspec.register_implementation("elsewhere", "no_such_package.FileSystem", errtxt="Install no_such_package")
    with pytest.raises(UsageError, match=r"Install no_such_package.*must be installed on every node"):
        check_artifacts("elsewhere://bucket/x", 2)


class Writing:
    """Writes what it finds of its ancestor, and ends as its request's seed says."""

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Write files, and evaluate."""
        ancestor = host.folder / (request.ancestor or "none")
        folder = filled(host.folder, request.folder, ancestor.read_bytes() if ancestor.exists() else b"alone")
        if request.seed == 1:
            (folder / request.folder / "error.txt").write_text("a traceback")
            return Infeasible(reason="it failed", rung="build")
        return AnalyticEvaluator(3).evaluate(request)


def request_for(folder: str, **how: Any) -> Request:
    """Return a request."""
    return Request(folder=folder, candidate=Candidate(), epochs=0, **how)


NOWHERE = Host(folder=Path("/proc/nowhere"))
"""A host whose run directory cannot be written."""


def shipped(artifacts: ArtifactStore) -> WithArtifacts:
    """Return an evaluator that keeps its files in a store."""
    return WithArtifacts(Writing(), artifacts)


def test_a_trial_is_uploaded_from_a_folder_of_the_node(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """The run directory is not touched; the next trial starts from weights that are brought to it; nothing is left."""
    evaluator = shipped(remote)
    assert isinstance(evaluator.evaluate(request_for(NAME), NOWHERE), tuple)
    second = request_for("trials/00002", ancestor=f"{NAME}/model.onnx")
    assert isinstance(evaluator.evaluate(second, NOWHERE), tuple)
    remote.put(filled(tmp_path / "a", "trials/00003", b"marked"), "trials/00003")
    evaluator.evaluate(request_for("trials/00004", ancestor="trials/00003/model.onnx"), NOWHERE)
    evaluator.evaluate(request_for("trials/00005", ancestor="trials/00099/model.onnx"), NOWHERE)
    for name, content in (("00002", b"alone"), ("00004", b"marked"), ("00005", b"alone")):
        assert remote.get(tmp_path / "b", f"trials/{name}")
        assert (tmp_path / "b" / "trials" / name / "model.onnx").read_bytes() == content


def test_the_teachers_outputs_stay_on_the_node_for_the_next_trial(remote: RemoteArtifacts) -> None:
    """All workers of a run have one folder for them, which is not the trial's; another run has another."""
    found: list[Path] = []

    class Teaching:
        def evaluate(self, request: Request, host: Host) -> Outcome:
            assert host.answers is not None
            assert not host.answers.is_relative_to(host.folder)
            (host.answers / request.folder.replace("/", "-")).touch()
            found.append(host.answers)
            return Infeasible(reason="it was only asked", rung="build")

    one, other = (WithArtifacts(Teaching(), remote) for _ in range(2))
    for evaluator, folder in ((one, NAME), (copy.deepcopy(one), "trials/00002"), (other, "trials/00003")):
        evaluator.evaluate(request_for(folder), NOWHERE)
    assert found[0] == found[1] != found[2]
    assert {path.name for path in found[0].iterdir()} == {"trials-00001", "trials-00002"}


def test_a_store_that_is_away_loses_the_trial(tmp_path: Path) -> None:
    """The evaluator says so, with the reason, in a way that is no defect."""
    (tmp_path / "file").touch()
    with pytest.raises(LostError, match="could not be written"):
        shipped(RemoteArtifacts(f"file://{tmp_path}/file")).evaluate(request_for(NAME), NOWHERE)


def test_a_finished_model_is_brought_and_a_trial_is_not(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """Of trials the run directory has the tracebacks only; what was brought is deleted where it came from."""
    evaluator, root = shipped(remote), tmp_path / "run"
    for request, files in (
        (request_for(NAME), set()),
        (request_for("models/00001", test=True), {"models/00001/model.onnx", "models/00001/deep/x"}),
        (request_for("trials/00002", seed=1), {"trials/00002/error.txt"}),
    ):
        outcome, before = evaluator.evaluate(request, NOWHERE), set(found(root))
        assert fetch_outcome(remote, root, request, outcome) == outcome
        assert set(found(root)) - before == files
    assert {Path(path).parent.name for path in kept(remote) if path.endswith(module.MANIFEST)} == {"00001"}


def test_a_finished_model_that_cannot_be_brought_is_lost(remote: RemoteArtifacts, tmp_path: Path) -> None:
    """It is finished again; a traceback that cannot be brought changes nothing."""
    request = request_for("models/00001", test=True)
    outcome = AnalyticEvaluator(3).evaluate(request)
    assert fetch_outcome(remote, tmp_path / "run", request, outcome) == LostTrial("its files are gone", counts=False)
    (tmp_path / "run").touch()
    remote.put(filled(tmp_path / "a", "models/00001"), "models/00001")
    result = fetch_outcome(remote, tmp_path / "run", request, outcome)
    assert isinstance(result, LostTrial)
    assert "could not be read" in result.why
    failed = Infeasible(reason="it failed", rung="build")
    assert fetch_outcome(remote, tmp_path / "run", request, failed) == failed


def test_a_search_whose_store_is_away_ends_in_order(search: Callable[..., StudyStore], tmp_path: Path) -> None:
    """Its trials are tried again, none is held to be infeasible, and when the store is back the search continues."""
    (tmp_path / "place").touch()
    how = {"trials": 4, "evaluator": shipped(RemoteArtifacts(f"file://{tmp_path}/place"))}
    with pytest.raises(UsageError, match=r"files at .* could not be written .* run the same command to resume"):
        search(AnalyticEvaluator(3), **how)
    (tmp_path / "place").unlink()
    found = [trial.outcome for trial in search(AnalyticEvaluator(3), **how).finished()]
    assert len(found) == 4
    assert not any("files" in reason.reason for reason in found if isinstance(reason, Infeasible))


def test_a_search_keeps_the_files_of_its_front(search: Callable[..., StudyStore], tmp_path: Path) -> None:
    """What has left the front is deleted where the workers had put it."""
    remote = RemoteArtifacts(f"file://{tmp_path}/remote")
    store = search(AnalyticEvaluator(3), trials=30, evaluator=shipped(remote), artifacts=remote)
    models = store.models()
    kept_models = [model for model in models if model.role != "front"]
    kept_models += [models[i] for i in select([m.measurement for m in models], store.limits)]
    assert {Path(path).parent.name for path in kept(remote) if path.endswith(module.MANIFEST)} == {
        Path(model.path).name for model in kept_models
    }
    assert len(kept_models) < len(models)


def test_the_run_directory_needs_nothing(tmp_path: Path) -> None:
    """Where workers write to the run directory, everything is there."""
    local, request = LocalArtifacts(), request_for("models/00001", test=True)
    outcome = AnalyticEvaluator(3).evaluate(request)
    local.put(tmp_path, NAME)
    local.delete(NAME)
    assert fetch_outcome(local, tmp_path, request, outcome) == outcome
    assert not any(tmp_path.iterdir())
