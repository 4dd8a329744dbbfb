"""Reports on which execution provider each node of an ONNX Runtime session runs.

A node that is on the CPU in a session for a GPU costs two copies and a wait for the device in every frame.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

_RECORD = "session.record_ep_graph_assignment_info"
_MAX_NAMED = 20


def record_placement(options: Any) -> None:
    """Makes sessions with these options record it."""
    options.add_session_config_entry(_RECORD, "1")


def describe_placement(session: Any) -> str:
    """One line: how many nodes run on each provider, and by operator and name those that are not on the first.

    The session's options must have been given to `record_placement`. Versions of ONNX Runtime that do not tell say so.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return "this version of ONNX Runtime does not tell where nodes run"
    first = session.get_providers()[0]
    nodes = list(_nodes(session))
    counts = Counter(provider for provider, _ in nodes)
    told = ", ".join(f"{count} nodes on {provider}" for provider, count in sorted(counts.items())) or "no nodes"
    others = [node for provider, node in nodes if provider != first]
    if not others:
        return told
    more = f" and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
    return f"{told}; not on {first}: {', '.join(others[:_MAX_NAMED])}{more}"


def _nodes(session: Any) -> Iterator[tuple[str, str]]:
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            yield part.ep_name, f"{node.op_type} {node.name}".strip()
