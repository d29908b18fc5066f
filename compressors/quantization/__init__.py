"""Quantization: bit-widths, calibration, learned steps, palettes."""
