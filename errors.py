"""Every error that autocompress raises on purpose.

    AutocompressError
    ├── UsageError              what the user asked for cannot be done; exit code 2
    │   ├── StudyError          a study that cannot be loaded, or a task that breaks its rules
    │   ├── RunDirectoryError   a run directory that cannot be used
    │   ├── StorageError        a database that cannot be used, or was away for too long
    │   ├── MissingRuntimeError a runtime whose package is not installed
    │   └── CompactFileError    a compact file that is none, is damaged, or is newer than this version
    ├── LostError               one evaluation that came to nothing for no fault of its candidate
    └── InfeasibleError         one candidate that cannot be built, trained or measured

A message gives the rule, the value that came and the way out.
An `InfeasibleError` never leaves a study: it becomes an infeasible trial with its reason. After a `LostError` the
trial is begun again, a few times.
Anything else that is raised is a defect of ours.
"""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_BLAME = "raised in the task's"

LONGEST = 300
"""Characters of another program's message that are quoted in one of ours."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_LIBRARY = tuple({f"{path(sysconfig.get_path('stdlib'))}{os.sep}" for path in (str, os.path.realpath)})
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_COMPILER = re.compile(r":\d+: (?:fatal )?error: \S")
_KIND = re.compile(r"(?:<class '(?:[\w.]+\.)?(\w+)'>|(?:[\w.]+\.)?(\w*(?:Error|Exception|Unsupported))): *(?=\S)")


class AutocompressError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(AutocompressError):
    """The user asked for something that cannot be done."""


class StudyError(UsageError):
    """A study cannot be loaded, or its task breaks the rules of `Task`."""


class RunDirectoryError(UsageError):
    """A run directory cannot be written, is in use, or belongs to another study."""


class StorageError(UsageError):
    """The database that holds a study cannot be used, or has not answered for too long."""


class MissingRuntimeError(UsageError):
    """The package behind a runtime is not installed."""


class CompactFileError(UsageError):
    """A compact file is none, is damaged, or was written by a newer version."""


class LostError(AutocompressError):
    """An evaluation came to nothing for no fault of its candidate: where its files are kept cannot be reached."""


class InfeasibleError(AutocompressError):
    """One candidate cannot be built, trained or measured.

    Args:
        reason: one sentence for the report.
        rung: where the candidate ended (``"build"``, ``"latency"``, ``"accuracy"``…).
    """

    def __init__(self, reason: str, rung: str) -> None:
        super().__init__(reason, rung)
        self.reason = reason
        self.rung = rung

    def __str__(self) -> str:
        return self.reason


@contextmanager
def blaming(part: str) -> Iterator[None]:
    """Note on an error that it was raised in a part of the user's task; it is raised on as what it is.

    >>> try:
    ...     with blaming("loss"):
    ...         raise RuntimeError("no such label")
    ... except RuntimeError as error:
    ...     print(blamed(error))
    raised in the task's `loss`
    """
    try:
        yield
    except AutocompressError:
        raise
    except Exception as error:
        error.add_note(f"{_BLAME} `{part}`")
        raise


def blamed(error: BaseException) -> str:
    """Return what `blaming` has noted on an error; empty where that is nothing."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith(_BLAME)), "")


def in_a_line(error: BaseException) -> str:
    """Return an error's kind, the gist of what it says, what `blaming` has noted, and its place in the user's code."""
    kind = type(error).__name__
    said = gist(str(error.msg) if isinstance(error, SyntaxError) else error)
    line = said if said.startswith(kind) else f"{kind}: {said}"
    where = "; ".join(filter(None, (blamed(error), place(error))))
    return f"{line} ({where})" if where else line


def place(error: BaseException) -> str:
    """Return the last line of the user's own code that an error came through; empty where it came through none.

    That is code which lies neither in this package nor in Python's library nor among installed packages, in this
    process or in one of a loader's, as ``my_study.py:22 in Net.forward``.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [
        (_file(frame), line, frame.f_code.co_qualname)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not str(frame.f_globals.get("__name__", "")).startswith(f"{__package__}.")
    ]
    frames += [(file, int(line), function) for file, line, function in _FRAME.findall(str(error))]
    theirs = [frame for frame in frames if _is_the_users(frame[0])]
    if not theirs:
        return ""
    file, line, function = theirs[-1]
    return f"{Path(file).name}:{line}" + ("" if function == "<module>" else f" in {function}")


def users_line(file: str, line: int) -> str:
    """Return a line of the user's own code, as ``my_study.py:22``; empty for one of a library."""
    ours = any(Path(file).is_relative_to(Path(__file__).parent / room) for room in ("compressors", "studies"))
    return f"{Path(file).name}:{line}" if _is_the_users(file) and not ours else ""


def _file(frame: FrameType) -> str:
    """Return the file of a frame's code; what travelled to a worker process has forgotten it, but not its module's."""
    file = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", file)) if file.startswith("<") else file


def _is_the_users(file: str) -> bool:
    return not (file.startswith((*_LIBRARY, "<frozen")) or {"site-packages", "dist-packages"} & {*Path(file).parts})


def gist(error: BaseException | str) -> str:
    r"""Return the line of a message, often another program's, that tells what is wrong, without its last dot.

    That is the last one which begins with the kind of an error, as tracebacks and chains of errors end. Where none
    does, it is the last line of a text, which is what a process has printed, and of an error the first line that does
    not just announce the next by a colon. Indented lines are details, except a compiler's first error.

    >>> gist(RuntimeError("Failed to export. Next steps:\n- Debug it\n\n<class 'ValueError'>: no such shape."))
    'ValueError: no such shape'
    >>> gist(RuntimeError("Exception from core.cpp:109:\nArgument shapes are inconsistent.")), gist(KeyError())
    ('Argument shapes are inconsistent', 'KeyError')
    """
    log = isinstance(error, str)
    lines = [line.rstrip(". ") for line in _COLOURS.sub("", str(error)).strip().splitlines() if line[:1].strip()]
    causes = [f"{kind[1] or kind[2]}: {line[kind.end() :]}" for line in lines if (kind := _KIND.match(line))]
    rest = lines[::-1] if log else [line for line in lines if not line.endswith(":")] or lines
    said = (causes[::-1] or rest or ["it gives no reason" if log else type(error).__name__])[0]
    compiler = next(filter(_COMPILER.search, map(str.strip, str(error).splitlines())), "")
    said += f" ({compiler})" if compiler and compiler.rstrip(". ") not in said else ""
    return shortened(said)


def shortened(said: str) -> str:
    """Return a message that is no longer than `LONGEST`: its middle goes, as some tell at the end what is wrong.

    >>> shortened("Load model failed: " + "x" * 1000 + ", Error No Op registered for Foo")[-35:]
    'xxx, Error No Op registered for Foo'
    """
    head = LONGEST // 3
    return said if len(said) <= LONGEST else f"{said[:head]} … {said[head + 3 - LONGEST :]}"
