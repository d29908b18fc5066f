"""Addresses that may hold a password, which is told to nobody and kept nowhere."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

SCHEME = re.compile(r"[^/@?#]*?://|//|[^/@:]+:(?=.*@)", re.DOTALL)
"""What a URL begins with; its slashes may have been forgotten."""

FILES = re.compile(r"(file|local|sqlite(\+\w+)?)://")
"""What is followed by a path, which has no user."""

PARTS = re.compile(r"[/@:?&=#;]+")
"""What separates the parts of a URL."""

END = re.compile(r"[?#;]")
"""Where what says *where* ends, and what says *how*, or as whom, begins."""

SHORT = 3
"""Characters of a part that is nobody's secret: to hide each ``1`` or ``db`` would leave no message."""


def plain_url(url: str) -> str:
    """Return of a URL what may be kept and told: neither user nor password, and nothing of its query.

    A password may have a slash or a question mark in it, and a query an ``@``. Where it cannot be told which it is,
    only the scheme is left.

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
    """Return what an error says of a URL, without what `plain_url` leaves out.

    >>> redacted("no user 'me' with 'hush' at ftp://me:hush@host", "ftp://me:hush@host")
    "no user 'me' with '…' at ftp://host"
    """
    plain = plain_url(url)
    text = text.replace(url, plain)
    for part in sorted(_hidden(url, plain), key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def _hidden(url: str, plain: str) -> set[str]:
    """Return the parts of a URL that are not told, as they are written and as they are meant."""
    parts = set(PARTS.split(url)) - set(PARTS.split(plain))
    meant = {decode(part) for part in parts for decode in (unquote, unquote_plus)}
    return {part for part in parts | meant if len(part) > SHORT}
