"""Bundles: the folders that hold an exported model."""
