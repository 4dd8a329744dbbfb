"""TensorRT engines on disk: their cache, and whom to trust."""
