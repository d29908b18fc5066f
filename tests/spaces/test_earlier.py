"""Spaces of earlier versions."""

from __future__ import annotations

from autocompress.spaces.earlier import as_started
from autocompress.spaces.space import Choice, Space

BITS = Choice(axis="bits", target="conv1", levels=(32, 8), neutral=32)
DEPTH = Choice(axis="depth", target="conv1", levels=("kept", "gone"), neutral="kept")


def test_a_run_is_resumed_with_the_choices_it_was_started_with() -> None:
    """A run of this version has the present space, an older one the present space without later axes."""
    now, before = Space((DEPTH, BITS)), Space((BITS,))
    assert as_started(now, now.fingerprint) == now
    assert as_started(now, before.fingerprint) == before
    assert as_started(now, Space((DEPTH,)).fingerprint) is None
