"""Short texts for other processes, in the key-value store of a Ray cluster; they are lost while the store is away."""

from __future__ import annotations

from contextlib import suppress


def put(key: str, text: str) -> bool:
    """Store a text under a key; return whether the store took it."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_put(_bytes(key), text.encode(), overwrite=True)
        return True
    return False


def get(key: str) -> str:
    """Return the text under a key; empty where there is none."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        return (internal_kv._internal_kv_get(_bytes(key)) or b"").decode()
    return ""


def delete(key: str) -> None:
    """Delete the text under a key."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_del(_bytes(key))


def _bytes(key: str) -> bytes:
    return f"autocompress:{key}".encode()
