"""Starts Ray in this process while it is needed, and ends it without a trace; the caller's own Ray is only used."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...errors import UsageError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # what measures has normal priority; trainers lower their own
}
"""Our settings for Ray, unless the user has set them."""

_ours = threading.RLock()
"""Held by the thread that has or starts a Ray of ours: a process can have only one."""


def running() -> bool:
    """Return whether this process is in a Ray that the caller has started.

    Raises:
        UsageError: see `reserved`.
    """
    with reserved():
        ray = sys.modules.get("ray")
        return ray is not None and ray.is_initialized()


@contextmanager
def reserved() -> Iterator[None]:
    """Let no other thread start a Ray of ours meanwhile.

    Raises:
        UsageError: another thread has one, or is starting it.
    """
    if not _ours.acquire(blocking=False):
        raise UsageError(
            "only one study of a process at a time may start Ray or join a cluster; one in another thread has. Wait "
            "for it, give --workers 0, or call ray.init() before either starts: then both use that Ray."
        )
    try:
        yield
    finally:
        _ours.release()


def by_client() -> bool:
    """Return whether the caller has joined from outside, by ``ray://``."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


@contextmanager
def environment(changes: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set the variables that Ray reads; at the end restore all of them, including those that Ray has set.

    Args:
        changes: further variables, which replace the user's.
    """
    before = _variables()
    os.environ.update({**ENVIRONMENT, **before, **(changes or {})})
    try:
        yield
    finally:
        for name in _variables().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def begun(*, count: int | None = None, address: str = "local") -> Iterator[Any]:
    """Start Ray on this machine, or join a cluster; yield the module.

    A Ray of ours listens on the loopback interface only and accepts only clients with its token, which is in the
    environment of its processes and nowhere else.

    Args:
        count: CPUs of a Ray on this machine.
        address: address of a cluster.

    Raises:
        UsageError: see `reserved`.
        Exception: of many kinds, if a cluster cannot be joined.
    """
    local = address == "local"
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if local else {}
    size = {"num_cpus": count, "include_dashboard": False} if local else {}
    with reserved(), _as_before(), environment(own):
        import ray

        _read_authentication()
        with _loopback(only=local):
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **size)
        try:
            yield ray
        finally:
            ray.shutdown()


def authenticated() -> bool:
    """Return whether this process shows a token to the Ray that it has joined."""
    from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]

    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


def _variables() -> dict[str, str]:
    """Return the environment variables that Ray reads or sets."""
    return {name: text for name, text in os.environ.items() if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"}


def _read_authentication() -> None:
    """Make Ray read the environment's token again: it keeps the one it has read."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback(*, only: bool) -> Iterator[None]:
    """Make a starting Ray listen on the loopback interface only, as it does by itself on macOS and Windows.

    (Ray replaces a node address of 127.0.0.1 by that of the machine.)
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not only
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore what Ray leaves changed: its logger's level, its token, and the main thread's SIGTERM handler."""
    logger = logging.getLogger("ray")
    level, handler = logger.level, signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        logger.setLevel(level)
        _read_authentication()
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
