"""Modules that every part of the project may use. They import nothing else of the project but `dsmap.errors`."""
