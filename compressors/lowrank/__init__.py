"""Low-rank factorisation of layers."""
