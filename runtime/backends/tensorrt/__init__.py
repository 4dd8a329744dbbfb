"""TensorRT and TensorRT-RTX: engines loaded, their memory, and what runs them."""
