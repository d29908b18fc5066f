"""Structured and unstructured pruning: dependency groups, importances, attention heads."""
