"""Plain copies of a user's networks: without wrappers, in float32, with weights that are not computed from others."""
