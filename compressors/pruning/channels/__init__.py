"""Channels of dependency groups: how operations move them, which go together, and whether a group can be pruned."""
