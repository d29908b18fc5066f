"""Depth: residual branches that go whole."""
