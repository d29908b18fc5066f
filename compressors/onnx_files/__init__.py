"""ONNX files: export, quantized layouts, number formats, and what a file holds."""
