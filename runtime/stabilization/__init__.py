"""Optical flow, stabilization, and measurement of flicker."""
