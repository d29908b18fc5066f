"""How a choice changes a network."""
