"""A bundle as a model of Triton Inference Server's Python backend.

`dsmap export BUNDLE --triton REPO` writes the model's folder, with `model.py` of this package in it; the server's
Python imports the rest from the installed dsmap.
"""
