"""Backends: what runs the graphs of a bundle.

- `base`: the interface (`Backend`), its settings, and the types of frames and style codes.
- `registry`: the backends by name, and what `auto` chooses.
- One module for each runtime: `onnxruntime_cpu`, `onnxruntime_cuda`, `openvino`, and the folders `tensorrt`, `torch`,
  `triton` and `providers` (GPUs of every maker through ONNX Runtime).
- Shared by several of them: `concurrency`, `onnxruntime_session`, `gpu_graph`.

A new backend is a class in a module of its own and one line in `registry.BACKENDS`.
"""
