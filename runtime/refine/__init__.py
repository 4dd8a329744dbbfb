"""Bringing translations of a lower height to the input's size, along the input's edges."""
