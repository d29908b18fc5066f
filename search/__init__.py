"""Chooses the next candidate, evaluates it, and ends with a front."""
