"""Addresses that may hold a password, which is told to nobody and kept nowhere."""

from __future__ import annotations

import re

PASSWORD = re.compile(r"//[^@?]*:[^@]*@|(password|passwd|secret|token|key)=", re.IGNORECASE)
"""What a URL with a password looks like."""


QUERY = re.compile(r"((?:password|passwd|secret|token|key)=)[^&]*", re.IGNORECASE)


def plain_url(url: str) -> str:
    """Return a URL without the name and password in it.

    >>> plain_url("ftp://me:secret@host/models")
    'ftp://host/models'
    """
    return re.sub(r"//[^/@]*@", "//", url)


def told(url: str) -> str:
    """Return a URL as a message may tell it.

    >>> told("postgresql://me:secret@host/db?sslmode=require&password=secret")
    'postgresql://me:…@host/db?sslmode=require&password=…'
    """
    return QUERY.sub(r"\1…", re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:…@", url))
