"""Keeps the files of trials: in the run directory, or in a store that all nodes reach."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import LostError, UsageError, in_a_line
from ..evaluators.scratch import scratch
from ..files import write_atomically
from .redact import plain_url, redacted


class ArtifactStore(Protocol):
    """Keeps the folders of requests under their names below a run directory."""

    def put(self, root: Path, folder: str, only: str = "") -> None:
        """Keep a folder, or one file of it, from below a local root.

        Raises:
            LostError: it cannot be kept.
        """
        ...

    def get(self, root: Path, folder: str, only: str = "") -> bool:
        """Copy a folder, or one file of it, below a local root; return whether it is kept at all.

        Raises:
            LostError: it cannot be copied.
        """
        ...

    def delete(self, folder: str) -> None:
        """Delete a folder, which need not exist.

        Raises:
            LostError: it cannot be deleted.
        """
        ...


class LocalArtifacts:
    """The run directory itself, to which all workers of this machine write."""

    def put(self, root: Path, folder: str, only: str = "") -> None:
        """Do nothing: it is already there."""

    def get(self, root: Path, folder: str, only: str = "") -> bool:
        """Return whether it exists."""
        return True

    def delete(self, folder: str) -> None:
        """Do nothing: the owner of the run directory deletes files."""


MANIFEST = "manifest.json"


PLACE = re.compile(r"[0-9a-f]{32}")
"""Name of the folder of an upload."""


NAME = re.compile(r"(?!\.\.?(/|$))[\w. +-]+(/(?!\.\.?(/|$))[\w. +-]+)*")
"""Name of a file in a manifest: a relative path without ``..``."""


WAITS_S = (1.0, 4.0, 15.0)
"""Seconds between tries to reach a store that does not answer."""


@dataclass(frozen=True)
class RemoteArtifacts:
    """Folders at an fsspec URL.

    Args:
        url: URL of the study's folder.
        driver: distinguishes the models that this driver finishes from those of another driver of the study.
    """

    url: str
    driver: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def put(self, root: Path, folder: str, only: str = "") -> None:
        """Upload to a new folder, then let the manifest name it."""
        source = root / folder
        found = (p for p in source.rglob("*") if p.is_file() and not p.is_symlink() and only in ("", p.name))
        names = sorted(str(p.relative_to(source)) for p in found)
        digests = {name: _digest((source / name).read_bytes()) for name in names}

        def upload() -> None:
            files, base = self._open(folder)
            before, place = _manifest(files, base), uuid.uuid4().hex
            for name in names:
                files.put_file(str(source / name), f"{base}/{place}/{name}")
            files.pipe_file(f"{base}/{MANIFEST}", json.dumps({"place": place, "files": digests}).encode())
            if before is not None:
                _remove(files, f"{base}/{before.place}")

        self._insist("written", upload)

    def get(self, root: Path, folder: str, only: str = "") -> bool:
        """Download what is missing, and check it."""

        def download() -> bool:
            files, base = self._open(folder)
            manifest = _manifest(files, base)
            if manifest is None:
                return False
            wanted = {name: digest for name, digest in manifest.files.items() if only in ("", name)}
            targets = {name: _inside(root, root / folder / name) for name in wanted}
            for name, digest in wanted.items():
                target = targets[name]
                if not (target.is_file() and not target.is_symlink() and _digest(target.read_bytes()) == digest):
                    content = files.cat_file(f"{base}/{manifest.place}/{name}")
                    if _digest(content) != digest:
                        raise OSError(f"{name} is damaged")
                    write_atomically(target, content)
            return bool(wanted)

        return self._insist("read", download)

    def delete(self, folder: str) -> None:
        """Delete the manifest first, then all files of the folder."""

        def remove() -> None:
            files, base = self._open(folder)
            _remove(files, f"{base}/{MANIFEST}")
            _remove(files, base)

        self._insist("deleted", remove, ())

    def probe(self) -> None:
        """Write, read and delete a folder.

        Raises:
            LostError: one of these fails.
        """
        with scratch() as here, scratch() as there:
            folder = f"probe-{uuid.uuid4().hex}"
            write_atomically(here / folder / "file", folder.encode())
            self.put(here, folder)
            if not self.get(there, folder):
                raise LostError("what was written was not there")
            self.delete(folder)

    def _open(self, folder: str) -> tuple[Any, str]:
        """Return the file system, and where a folder is in it."""
        from fsspec.core import url_to_fs  # noqa: PLC0415  # start-up time: fsspec is slow to import

        files, path = url_to_fs(self.url, use_listings_cache=False, **_options(self.url))
        return files, f"{path}/{folder}" if folder.startswith("trials/") else f"{path}/{self.driver}/{folder}"

    def _insist(self, verb: str, action: Callable[[], T], waits_s: Sequence[float] | None = None) -> T:
        """Try something a few times until it succeeds."""
        for wait in (*(WAITS_S if waits_s is None else waits_s), None):
            try:
                return action()
            except LostError:  # another try would find the same
                raise
            except Exception as error:  # each file system has errors of its own
                if wait is None:
                    raise LostError(
                        f"its files at {plain_url(self.url)} could not be {verb} "
                        f"({redacted(in_a_line(error), self.url)})"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last try ends the loop")


def _options(url: str) -> dict[str, Any]:
    from fsspec.utils import get_protocol  # noqa: PLC0415  # start-up time: fsspec is slow to import

    return {"auto_mkdir": True} if get_protocol(url) in ("file", "local") else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class _Manifest:
    """The content of a folder: where its files are, and their digests by name."""

    place: str
    files: Mapping[str, str]


def _manifest(files: Any, base: str) -> _Manifest | None:
    """Return the manifest of a folder; None if there is none, or an incomplete one.

    Raises:
        LostError: it names files outside its folder: someone else has written it.
    """
    try:
        found = json.loads(files.cat_file(f"{base}/{MANIFEST}"))
    except (FileNotFoundError, ValueError):
        return None
    content = found if isinstance(found, dict) else {}
    place, named = content.get("place"), content.get("files")
    if not (isinstance(place, str) and PLACE.fullmatch(place)):
        raise _foreign(base, f"keep its files in a folder of 32 hexadecimal digits; it names {place!r}")
    if not isinstance(named, dict):
        raise _foreign(base, f"have names of files with their digests; it has {named!r}")
    for name, digest in named.items():
        if not (NAME.fullmatch(name) and isinstance(digest, str)):
            raise _foreign(base, f"name files inside its folder; it names {name!r}")
    return _Manifest(place=place, files=named)


def _foreign(base: str, rule: str) -> LostError:
    return LostError(
        f"{base}/{MANIFEST} must {rule}. autocompress has not written that, and nothing was taken from there. "
        "Find out who else writes to the store, and delete the folder."
    )


def _inside(root: Path, target: Path) -> Path:
    """Return a path to write to, checking that no link leads out of a root.

    Raises:
        LostError: one does.
    """
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise LostError(
            f"files must stay inside {str(root)!r}; a link leads {str(target)!r} out of it. Delete the link."
        )
    return target


def _remove(files: Any, path: str) -> None:
    with suppress(FileNotFoundError):
        files.rm(path, recursive=True)


def check_artifacts(url: str, workers: int | None) -> str:
    """Return a URL, made absolute, after writing, reading and deleting something there.

    Args:
        url: URL of any file system that fsspec knows.
        workers: how many processes will use it.

    Raises:
        UsageError: it cannot be used.
    """
    from fsspec.core import url_to_fs  # noqa: PLC0415  # start-up time: fsspec is slow to import

    rule = "--artifacts must be the URL of a place that can be written, such as file:///mnt/shared or s3://bucket/path"
    try:
        files, path = url_to_fs(url, **_options(url))
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{rule}; got {plain_url(url)!r}: {redacted(str(error), url)}. "
            "The package of a file system must be installed on every node."
        ) from error
    if "memory" in _protocols(files) and workers != 0:
        raise UsageError(
            f"{rule}; got {plain_url(url)!r}, which each process has for itself. Give --workers 0 with it."
        )
    whole = url if "://" in url and "file" not in _protocols(files) else files.unstrip_protocol(path)
    try:
        RemoteArtifacts(whole.rstrip("/")).probe()
    except LostError as error:
        raise UsageError(
            f"{rule}; got {plain_url(url)!r}: {redacted(str(error), url)}. Give another one, or the rights to write."
        ) from error
    return str(whole).rstrip("/")


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


T = TypeVar("T")
