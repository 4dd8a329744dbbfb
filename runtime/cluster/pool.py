"""The workers of a run: as many as the cluster has room for; units go to those that are free.

A unit whose worker is lost goes to another one when the others have begun, and what was finished of it is kept. One
that several workers were lost with, on nodes that are still there, is given up: it is probably what ends them.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from dsmap.common.interrupts import StopRequest
from dsmap.errors import DsmapError, first_line
from dsmap.runtime.cluster.connection import ClusterLostError, HeadNode
from dsmap.runtime.cluster.hub import RunHub
from dsmap.runtime.cluster.nodes import Share, is_alive, worker_count
from dsmap.runtime.cluster.outcomes import Outcomes
from dsmap.runtime.cluster.units import PartResult, Unit
from dsmap.runtime.cluster.worker import Worker, WorkerOrder
from dsmap.runtime.jobs.loaded_model import ModelSummary

MOST_ATTEMPTS = 3
"""At loading the model."""
MOST_LOSSES = 5
"""Workers that a unit may lose."""
STOP_SECONDS = 30.0
"""How long workers may take to keep what they have done after Ctrl-C."""
_CLOSE_SECONDS = 10.0  # for removing what they keep on disks
_WAIT_SECONDS = 0.25
_QUIET_SECONDS = 20.0  # before it is said that no worker has come yet
_GET_SECONDS = 60.0  # for a result that is there, unless its node has just gone
_LOSING_SECONDS = 20.0  # longer than it takes to see that the head node has gone
_COUNT_EVERY = 5.0  # seconds: nodes come and go
_log = logging.getLogger("dsmap")

_Losses: TypeAlias = tuple[str, ...]
"""The nodes on which workers were lost with a unit; "" where that is not known."""


@dataclass
class _Slot:
    """One worker: loading while it has a reference and no unit, idle without either."""

    actor: Any
    reference: Any
    node: Any
    """A reference to its node's id."""
    unit: Unit | None = None
    losses: _Losses = ()

    @property
    def has_loaded(self) -> bool:
        return self.unit is not None or self.reference is None


class Pool:
    """A context manager: all workers end with the block."""

    def __init__(self, ray: Any, share: Share, order: WorkerOrder) -> None:
        self._ray, self._share = ray, share
        self._order, self._precision = ray.put(order), order.request.model.precision
        self._slots: list[_Slot] = []
        self._summary: ModelSummary | None = None
        self._room = worker_count(ray, share)
        self._counted = time.monotonic()
        self._head = HeadNode(ray)
        self._refused = self._failed = self._retries = self._most = 0
        self._failing_since = 0.0

    def __enter__(self) -> Self:
        here = self._ray.get_runtime_context().get_node_id()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        near = NodeAffinitySchedulingStrategy(here, soft=True)
        self._hub = self._ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=near)(RunHub).remote()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ClusterLostError):
            return
        with contextlib.suppress(Exception):
            closing = [slot.actor.close.remote() for slot in self._slots if slot.reference is None]
            self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS) if closing else None
        for actor in (*(slot.actor for slot in self._slots), self._hub):
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def start(self, units: int, stop: StopRequest) -> ModelSummary | None:
        """Starts workers for so many units, and waits for the first one. None after a stop.

        Raises DsmapError when the model does not run there.
        """
        told = time.monotonic() + _QUIET_SECONDS
        while self._summary is None and not stop:
            self._grow(units)
            self._collect(deque(), None)
            if self._summary is None and time.monotonic() > told:
                told = float("inf")
                _log.warning("waiting for a worker: others may use the cluster, or the model takes long to load")
        return self._summary

    def described(self) -> str:
        """For people."""
        each = [f"{self._share.cpus:g} CPU{'s' if self._share.cpus != 1 else ''}"]
        each += [f"{self._share.gpus:g} GPU{'s' if self._share.gpus != 1 else ''}"] if self._share.gpus else []
        return f"ray: room for {self._room} worker{'s' if self._room != 1 else ''}, {' and '.join(each)} each"

    def facts(self) -> dict[str, Any]:
        """For the report."""
        share = {"cpus_per_worker": self._share.cpus, "gpus_per_worker": self._share.gpus}
        return {"workers": self._most, "lost_workers": self._retries} | share

    def work(self, units: Sequence[Unit], outcomes: Outcomes, stop: StopRequest) -> None:
        """Has all units done. After a stop, what workers can keep within half a minute is kept.

        Raises ClusterLostError when the head node has gone.
        """
        waiting: deque[tuple[Unit, _Losses]] = deque((unit, ()) for unit in units)
        stopped = 0.0
        while waiting or self._busy():
            if stop:
                waiting.clear()
                stopped = stopped or time.monotonic()
                if stop.force_stop or time.monotonic() - stopped > STOP_SECONDS:
                    return
            else:
                self._grow(len(waiting) + self._busy())
                self._assign(waiting, outcomes)
            self._hear(outcomes, stop=bool(stop))
            self._collect(waiting, outcomes)

    def _busy(self) -> int:
        return sum(slot.unit is not None for slot in self._slots)

    def _grow(self, units: int) -> None:
        """As many workers as there are units to do, if there is room; those that nothing is left for end."""
        if time.monotonic() - self._counted > _COUNT_EVERY:
            self._head.check()
            self._counted = time.monotonic()
            self._room = worker_count(self._ray, self._share) if self._head.is_there else self._room
        failing = self._failed >= MOST_ATTEMPTS and self._slots and not any(slot.has_loaded for slot in self._slots)
        if not self._head.is_there or failing:  # no more at a time than fail
            return
        wanted = min(units, max(1, self._room - self._refused))
        worker = self._ray.remote(num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0)(Worker)
        for _ in range(wanted - len(self._slots)):
            actor = worker.remote(self._order, self._hub)
            node = actor.node.remote()
            self._slots.append(_Slot(actor, actor.load.remote(self._precision), node))
        for slot in [slot for slot in self._slots if slot.reference is None][: max(0, len(self._slots) - wanted)]:
            self._slots.remove(slot)
            slot.actor.close.remote()  # and Ray ends it, when nothing refers to it any more
        self._most = max(self._most, len(self._slots))

    def _assign(self, waiting: deque[tuple[Unit, _Losses]], outcomes: Outcomes) -> None:
        for slot in self._slots:
            while waiting and outcomes.is_over(waiting[0][0]):
                waiting.popleft()
            if slot.reference is None and waiting:
                slot.unit, slot.losses = waiting.popleft()
                outcomes.hand_over(slot.unit)
                slot.reference = slot.actor.run.remote(slot.unit, retry=bool(slot.losses))
                outcomes.begin(slot.unit.numbers[0])

    def _hear(self, outcomes: Outcomes, *, stop: bool) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # it is started again
            for event in self._ray.get(self._hub.hear.remote(stop), timeout=10):
                outcomes.hear(event)

    def _collect(self, waiting: deque[tuple[Unit, _Losses]], outcomes: Outcomes | None) -> None:
        """Takes what has ended: loading and units."""
        references = {slot.reference: slot for slot in self._slots if slot.reference is not None}
        if not references:
            return
        ended, _ = self._ray.wait(list(references), num_returns=1, timeout=_WAIT_SECONDS)
        more, _ = self._ray.wait(list(references), num_returns=len(references), timeout=0)
        for reference in dict.fromkeys([*ended, *more]):
            slot = references[reference]
            if slot.unit is None:
                self._take_loaded(slot)
            else:
                assert outcomes is not None
                self._take_done(slot, waiting, outcomes)

    def _take_loaded(self, slot: _Slot) -> None:
        """Raises DsmapError when the first worker cannot load the model, or none can any more."""
        lost = False
        try:
            loaded = self._ray.get(slot.reference, timeout=_GET_SECONDS)
        except self._ray.exceptions.RayError as error:
            fact = f"workers end while they load the model: {first_line(error)}"
            loaded, lost = DsmapError(fact, "their nodes may lack memory: see ray status and Ray's logs"), True
        if isinstance(loaded, ModelSummary):
            slot.reference = None
            self._summary, self._failed = self._summary or loaded, 0
            if loaded.facts["precision"] != self._summary.facts["precision"]:
                self._drop(slot)  # its parts of a video would not fit: one that is told which takes its place
                self._precision = self._summary.facts["precision"]
            return
        self._drop(slot)
        self._failed += 1
        self._failing_since = time.monotonic() if self._failed == 1 else self._failing_since
        if (self._summary is None and not lost) or self._is_hopeless(lost):
            raise loaded
        if not lost or self._failed % MOST_ATTEMPTS == 0:  # a node unlike the others
            self._refused += 1
            _log.warning("the work goes on without a worker: %s", loaded.fact)

    def _is_hopeless(self, lost: bool) -> bool:
        """After so many failures in a row that no single node is to blame, nor a head node that has just gone."""
        if self._failed < max(MOST_ATTEMPTS, 2 * self._room) or any(slot.has_loaded for slot in self._slots):
            return False
        return not lost or time.monotonic() - self._failing_since > _LOSING_SECONDS

    def _take_done(self, slot: _Slot, waiting: deque[tuple[Unit, _Losses]], outcomes: Outcomes) -> None:
        unit = slot.unit
        assert unit is not None
        try:
            results, events = self._ray.get(slot.reference, timeout=_GET_SECONDS)
        except self._ray.exceptions.RayError as error:
            self._drop(slot)
            self._retry(unit, (*slot.losses, self._node(slot)), error, waiting, outcomes)
            return
        slot.unit = slot.reference = None
        for event in events:
            outcomes.hear(event)
        for result in results:
            waiting.extendleft((more, ()) for more in reversed(outcomes.take(result)))

    def _retry(
        self, unit: Unit, losses: _Losses, error: Exception, waiting: deque[tuple[Unit, _Losses]], outcomes: Outcomes
    ) -> None:
        self._retries += 1
        if len(losses) < MOST_LOSSES or self._counted_losses(losses) < MOST_LOSSES:
            waiting.extend((part, losses) for part in unit.apart())
            return
        for number in unit.numbers:
            fact = f"{len(losses)} workers were lost while they worked on it: {first_line(error)}"
            advice = "Ray's logs on their nodes may say why; if memory is short, pass --height or fewer workers a node"
            outcomes.take(PartResult(number, getattr(unit, "part", 0), DsmapError(fact, advice)))

    def _counted_losses(self, losses: _Losses) -> int:
        """Those on nodes that are still there."""
        if not self._head.is_there:  # Ray would wait for it
            return 0
        return sum(not node or is_alive(self._ray, node) for node in losses)

    def _node(self, slot: _Slot) -> str:
        with contextlib.suppress(self._ray.exceptions.RayError):
            return str(self._ray.get(slot.node, timeout=1))
        return ""

    def _drop(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        with contextlib.suppress(Exception):
            self._ray.kill(slot.actor)
