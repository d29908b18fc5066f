"""A user's networks, made plain: copied, without what wraps them, in float32, their weights their own."""
