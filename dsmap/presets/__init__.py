"""Presets: training settings as YAML files."""
