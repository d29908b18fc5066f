"""Checks of a task's parts: its networks, its loaders, its training and its scores."""
