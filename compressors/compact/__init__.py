"""The compact file format `.acz`: entropy-coded weights of an ONNX file."""
