"""Evaluates one candidate in a worker: build, check, measure, score, train."""
