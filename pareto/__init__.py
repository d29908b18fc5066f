"""Measured models, limits and the Pareto front as plain values, without disk, Optuna or torch."""
