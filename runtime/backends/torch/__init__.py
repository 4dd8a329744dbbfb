"""The backend `torch`: a bundle's graphs rebuilt as a PyTorch module, for GPUs without TensorRT, and for Apple's.

Nothing else of the runtime imports PyTorch. `importing` does without it, so that a missing one is reported.
"""
