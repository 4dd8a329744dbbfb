"""Where workers tell how far they are, and hear whether they shall stop. An actor without a processor of its own."""

from collections.abc import Sequence

from dsmap.runtime.cluster.units import PartEvent


class RunHub:
    """What one run of the command keeps in the cluster; losing it loses no work."""

    def __init__(self) -> None:
        self._events: list[PartEvent] = []
        self._stop = False

    def tell(self, events: Sequence[PartEvent]) -> bool:
        """Called by workers. Whether they shall stop."""
        self._events += events
        return self._stop

    def hear(self, stop: bool) -> list[PartEvent]:
        """Called by the command: what came since the last call."""
        self._stop = stop
        events, self._events = self._events, []
        return events
