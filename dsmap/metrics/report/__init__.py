"""Evaluation reports: tables for the terminal, HTML pages, image grids, notes."""
