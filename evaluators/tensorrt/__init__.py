"""TensorRT: building engines from ONNX, and running and timing them on a GPU."""
