"""What may vary: candidates, layers and groups, the space."""
