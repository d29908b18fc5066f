"""No secret of a URL is kept or told, wherever in it that may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.storage.redact import plain_url, redacted

SECRET = "hunter2hush"

SCHEMES = ("postgresql", "postgresql+psycopg", "mysql", "s3", "gs", "abfs", "webdav", "ftp", "https", "ray", "redis")

WORDS = st.text("abcXYZ019-_.", min_size=1, max_size=8)

ANYTHING = st.text(st.sampled_from("ab1/?#@:;&=%+ \\\n'\"[]|,é"), max_size=6)


@st.composite
def urls(choose: st.DrawFn) -> tuple[str, str]:
    """Draw a URL with the secret in its password, its query or its fragment; and that with anything around it."""
    around = f"{choose(ANYTHING)}{SECRET}{choose(ANYTHING)}"
    begin = (
        choose(st.sampled_from(("", "simplecache::", "zip://file.csv::"))) + choose(st.sampled_from(SCHEMES)) + "://"
    )
    where = choose(WORDS) + choose(st.sampled_from(("", ":5432", "/path", "/path/deeper")))
    user = choose(st.sampled_from(("", "me")))
    match choose(st.sampled_from(("password", "query", "fragment", "both"))):
        case "password":
            return f"{begin}{user}:{around}@{where}", around
        case "query":
            return f"{begin}{where}?{choose(WORDS)}={around}", around
        case "fragment":
            return f"{begin}{where}#{around}", around
        case _:
            return f"{begin}{user}:{around}@{where}?{choose(WORDS)}={around}", around


@given(urls())
def test_no_secret_survives(drawn: tuple[str, str]) -> None:
    """Neither in what is kept of a URL, nor in what an error says that has it, whole or in part."""
    url, secret = drawn
    plain = plain_url(url)
    assert SECRET not in plain
    assert plain_url(plain) == plain
    assert SECRET not in redacted(f"no such place: {url}; nor {secret}", url)


@given(st.sampled_from(SCHEMES), WORDS, WORDS)
def test_what_is_no_secret_is_kept(scheme: str, host: str, path: str) -> None:
    """Host, port and path say where something is."""
    url = f"{scheme}://{host}:80/{path}"
    assert plain_url(url) == url
    assert plain_url(f"{scheme}://me:{SECRET}@{host}:80/{path}?token={SECRET}") == url


@pytest.mark.parametrize(
    "place",
    [
        "runs/mine",
        "/mnt/a@b/models",
        "file:///mnt/me@work/models",
        "sqlite:////home/me@work/study.db",
        "auto",
        "host:6379",
    ],
)
def test_a_place_without_a_user_stays_as_it_is(place: str) -> None:
    """An ``@`` in a path is no end of a password."""
    assert plain_url(place) == place


@pytest.mark.parametrize("url", ["postgresql:me:hush@host/db", "//me:hush@host/db", "me:hush@host:6379"])
def test_a_url_without_its_slashes_tells_nothing_either(url: str) -> None:
    """Messages report mistakes."""
    assert "hush" not in plain_url(url)
