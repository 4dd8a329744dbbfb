"""CUDA for the TensorRT backends.

- `base`: the interface, `Cuda`, and its types.
- `bindings`: `load_cuda`, which picks a binding.
- `cuda_python` and `pycuda`: the interface on one Python binding each.
"""
