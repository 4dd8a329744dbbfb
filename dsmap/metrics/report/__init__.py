"""Evaluation reports: tables for the terminal, pages for the browser, grids of results."""
