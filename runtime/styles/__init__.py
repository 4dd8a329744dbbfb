"""Styles: what users write, style paths over time, strength."""
