"""Reports on which execution provider each node of an ONNX Runtime session runs.

A node that is on the CPU in a session for a GPU costs two copies and a wait for the device in every frame.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

_RECORD = "session.record_ep_graph_assignment_info"
_MAX_NAMED = 20
_UNKNOWN = "this version of ONNX Runtime does not tell where nodes run"


class Placement(NamedTuple):
    """Where the nodes of a session run."""

    provider: str
    """The session's first, which should have them all."""
    counts: dict[str, int]
    """Nodes by provider; empty where ONNX Runtime does not tell."""
    elsewhere: tuple[str, ...]
    """Operator and name of those that are not on the first."""
    known: bool = True

    @property
    def on_device(self) -> int:
        """How many nodes are on the first provider."""
        return self.counts.get(self.provider, 0)

    def describe(self) -> str:
        """One line: how many nodes run on each provider, and by operator and name those that are not on the first."""
        if not self.known:
            return _UNKNOWN
        told = (
            ", ".join(f"{count} nodes on {provider}" for provider, count in sorted(self.counts.items())) or "no nodes"
        )
        if not self.elsewhere:
            return told
        more = f" and {len(self.elsewhere) - _MAX_NAMED} more" if len(self.elsewhere) > _MAX_NAMED else ""
        return f"{told}; not on {self.provider}: {', '.join(self.elsewhere[:_MAX_NAMED])}{more}"

    def describe_others(self) -> str:
        """How many of the nodes run elsewhere, in few words."""
        return f"{len(self.elsewhere)} of {sum(self.counts.values())} nodes on the CPU"


def record_placement(options: Any) -> None:
    """Makes sessions with these options record it."""
    options.add_session_config_entry(_RECORD, "1")


def placement(session: Any) -> Placement:
    """Where a session's nodes run. Its options must have been given to `record_placement`."""
    first = session.get_providers()[0]
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Placement(first, {}, (), known=False)
    nodes = list(_nodes(session))
    others = tuple(node for provider, node in nodes if provider != first)
    return Placement(first, dict(Counter(provider for provider, _ in nodes)), others)


def _nodes(session: Any) -> Iterator[tuple[str, str]]:
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            yield part.ep_name, f"{node.op_type} {node.name}".strip()
