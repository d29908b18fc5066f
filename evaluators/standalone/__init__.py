"""Measures model files and checks the machine without any study."""
