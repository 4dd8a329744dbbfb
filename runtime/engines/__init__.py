"""TensorRT engines on disk: building, caching, trusting."""
