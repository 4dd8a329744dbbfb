"""Writes into each ONNX file what it is: the model, part, domain, precision, version and licence travel with it."""

from collections.abc import Mapping
from pathlib import Path

from dsmap import __version__
from dsmap.export.verify import GraphFiles

PREFIX = "dsmap."


def stamp_graphs(files: Mapping[str, GraphFiles], *, model: str, licence: str) -> None:
    """Sets the `metadata_props` of graphs, by precision; what they compute stays. Before their hashes are taken."""
    for precision, graphs in files.items():
        for (component, domain), path in graphs.items():
            facts = {"model": model, "part": component, "domain": domain, "precision": precision}
            stamp_graph(path, facts | {"version": __version__, "licence": licence})


def stamp_graph(path: Path, facts: Mapping[str, str]) -> None:
    """Sets `facts` in the metadata of one file, each key under `dsmap.`; other keys stay."""
    import onnx

    graph = onnx.load(str(path))
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, kept | {f"{PREFIX}{key}": value for key, value in facts.items()})
    onnx.save_model(graph, str(path), save_as_external_data=False)


def read_stamp(path: Path) -> dict[str, str]:
    """What `stamp_graph` has written."""
    import onnx

    found = onnx.load(str(path), load_external_data=False).metadata_props
    return {entry.key.removeprefix(PREFIX): entry.value for entry in found if entry.key.startswith(PREFIX)}
