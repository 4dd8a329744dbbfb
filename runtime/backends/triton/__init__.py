"""A Triton Inference Server that translates for this machine, which then needs neither the model's files nor an engine.

Its models are those that `dsmap-export --triton` writes; see `dsmap.runtime.triton`.
"""
