"""Fixtures for tests of exports."""

import shutil

import pytest


@pytest.fixture
def from_exported(exported, monkeypatch):
    """Exports take their usual graphs from the bundle that was exported: torch needs seconds for each."""
    from dsmap.export import bundle_writer
    from dsmap.export.graphs import write_graph

    def copy(graph, path, templates=None):
        known = exported.folder / path.name
        shutil.copy(known, path) if known.exists() else write_graph(graph, path, templates)

    monkeypatch.setattr(bundle_writer, "write_graph", copy)


@pytest.fixture(autouse=True)
def _traced_once(traces):
    """Every export here."""
