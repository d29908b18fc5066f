"""Selects one model of a run and copies it out, ready to deploy."""
