"""Translating on a Ray cluster: the same requests, checks and reports as on one machine, on many.

Ray itself is imported in `connection` alone, and only when a cluster is asked for.
"""
