"""Removes passwords from addresses, so that none is shown or kept."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

SCHEME = re.compile(r"[^/@?#]*?://|//|[^/@:]+:(?=.*@)", re.DOTALL)
"""The beginning of a URL; its slashes may be missing."""

FILES = re.compile(r"(file|local|sqlite(\+\w+)?)://")
"""Schemes followed by a path, which has no user."""

PARTS = re.compile(r"[/@:?&=#;]+")
"""Separators of the parts of a URL."""

END = re.compile(r"[?#;]")
"""Characters that end the location in a URL and begin its options, or its user."""

SHORT = 3
"""Most characters of a part that is not secret: hiding each ``1`` or ``db`` would leave no message."""


def plain_url(url: str) -> str:
    """Return a URL without user, password and query, to keep and to show.

    A password may have a slash or a question mark in it, and a query an ``@``. If the two cannot be distinguished, only
    the scheme is left.

    >>> plain_url("ftp://me:se/cret@host/models"), plain_url("s3://bucket/models?secret=hush")
    ('ftp://host/models', 's3://bucket/models')
    >>> plain_url("postgresql://host/db?password=p@ss"), plain_url("models/mine")
    ('postgresql://', 'models/mine')
    """
    scheme = (SCHEME.match(url) or [""])[0]
    if not scheme:
        return url  # a path
    end = END.search(url, len(scheme))
    where, how = (url[len(scheme) :], "") if end is None else (url[len(scheme) : end.start()], url[end.end() :])
    if "@" in how:
        return scheme
    return scheme + (where if FILES.match(scheme) else where.rpartition("@")[2])


def redacted(text: str, url: str) -> str:
    """Return an error message about a URL without the parts that `plain_url` removes.

    >>> redacted("no user 'me' with 'hush' at ftp://me:hush@host", "ftp://me:hush@host")
    "no user 'me' with '…' at ftp://host"
    """
    plain = plain_url(url)
    text = text.replace(url, plain)
    for part in sorted(_hidden(url, plain), key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def _hidden(url: str, plain: str) -> set[str]:
    """Return the hidden parts of a URL, as written and decoded."""
    parts = set(PARTS.split(url)) - set(PARTS.split(plain))
    meant = {decode(part) for part in parts for decode in (unquote, unquote_plus)}
    return {part for part in parts | meant if len(part) > SHORT}
