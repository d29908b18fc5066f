"""Measures latency, memory and energy in processes of their own."""
