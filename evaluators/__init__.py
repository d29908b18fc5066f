"""What a network costs: accuracy, latency, size."""
