"""What is learned before the first trial: costs of layers, sensitivities, the latency floor."""
