"""The commands beside the one that compresses."""
