"""Shared parts of commands: option groups, progress bars, JSON reports."""
