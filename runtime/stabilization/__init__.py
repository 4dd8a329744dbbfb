"""Stabilization: less flicker from frame to frame."""
