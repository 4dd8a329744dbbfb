"""Backends for GPUs of every maker, by execution providers of ONNX Runtime that want frames of one size.

- `fixed_size`: what they have in common; `frozen_graph` and `compiled_models` are its parts.
- One module for each backend: `coreml`, `directml`, `migraphx`, and by plugins (`plugins`) `webgpu` and `windowsml`.
- `wheels`: which wheel of ONNX Runtime has which provider, and which is in the way.
"""
