"""The nodes of a cluster: how many workers fit, and whether every node has what the work needs."""

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from dsmap import __version__
from dsmap.errors import InputError, first_line
from dsmap.runtime.bundle.bundled import is_hub_model
from dsmap.runtime.cluster.look import Found, Wanted, look_function
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.stored import StorePath, is_stored, remove_mark, write_mark

_LOOK_SECONDS = 120.0
_PULL_SECONDS = 900.0  # where nodes may have to pull the model first
_ALIVE_SECONDS = 5.0
_FOLDERS = 20  # looked at on every node, of each kind


class Share(NamedTuple):
    """What one worker gets."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, ray: Any, cpus: float, gpus: float | None) -> Self:
        """`gpus` None: one where the cluster has any. Raises InputError when no node has as much."""
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        share = cls(cpus, gpus)
        if not worker_count(ray, share):
            have = [node["Resources"] for node in _alive(ray)]
            most = (
                max((one.get("CPU", 0) for one in have), default=0),
                max((one.get("GPU", 0) for one in have), default=0),
            )
            raise InputError(
                f"no node of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a worker: the largest have"
                f" {most[0]:g} CPUs, {most[1]:g} GPUs",
                "pass less with --cpus-per-worker and --gpus-per-worker, or add nodes",
            )
        return share

    @property
    def threads(self) -> int:
        """How many a worker may keep busy."""
        return max(1, math.floor(self.cpus))

    def fits(self, resources: dict[str, float]) -> int:
        """How many workers a node with these resources takes."""
        counts = [resources.get("CPU", 0) / self.cpus]
        if self.gpus:
            counts.append(
                resources.get("GPU", 0) / self.gpus
                if self.gpus >= 1
                else resources.get("GPU", 0) * math.floor(1 / self.gpus)  # a worker is on one GPU
            )
        return math.floor(min(counts) + 1e-6)


def worker_count(ray: Any, share: Share) -> int:
    """How many workers the cluster takes now."""
    return sum(share.fits(node["Resources"]) for node in _alive(ray))


def check_nodes(ray: Any, share: Share, request: VideoRequest) -> None:
    """Looks at every node where workers may run. Raises InputError for the first thing that one lacks."""
    nodes = [node for node in _alive(ray) if share.fits(node["Resources"])]
    inputs = [job.source for job in request.jobs if isinstance(job.source, Path)]
    stored = [str(job.source) for job in request.jobs if isinstance(job.source, str) and is_stored(job.source)]
    stores = list({str(job.output.parent): None for job in request.jobs if is_stored(job.output)})[:_FOLDERS]
    local = [job for job in request.jobs if not is_stored(job.output)]
    outputs = dict.fromkeys(job.output if job.kind == "folder" else job.output.parent for job in local)
    folders = [folder if folder.is_dir() else folder.parent for folder in outputs]
    with _tokens(list(dict.fromkeys(folders))[:_FOLDERS]) as tokens, _stored_tokens(stores) as stored_tokens:
        wanted = Wanted(
            version=__version__,
            model=str(request.model.model),
            remote=request.model.remote,
            fingerprint=request.bundle.fingerprint,
            inputs=[str(path) for path in _of_each_folder(inputs)],
            tokens=tokens,
            stored_inputs=[str(path) for path in _of_each_folder([StorePath(address) for address in stored])],
            stored_tokens=stored_tokens,
        )
        found = _look(ray, nodes, wanted)
    if not found:
        raise InputError("all nodes of the cluster died while they were looked at", "look at it with ray status")
    bad = [(node, problem) for node, problem in found if problem is not None]
    if bad:
        node, (fact, advice) = bad[0]
        others = f" (and on {len(bad) - 1} of {len(nodes) - 1} other nodes)" if len(bad) > 1 else ""
        raise InputError(fact.replace("NODE", f"the node {node}") + others, advice)


def is_alive(ray: Any, node: str) -> bool:
    """Whether the node with this id is there, as far as the cluster knows."""
    return any(one["NodeID"] == node for one in _alive(ray))


def _look(ray: Any, nodes: Sequence[dict[str, Any]], wanted: Wanted) -> list[tuple[str, Found]]:
    """What each node answers; one that dies meanwhile is left out, as if it had died before."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(look_function())
    asked = {
        node["NodeID"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(wanted._asdict())
        for node in nodes
    }
    seconds = _PULL_SECONDS if is_hub_model(wanted.model) else _LOOK_SECONDS
    until = time.monotonic() + seconds
    waiting = list(asked.values())
    while waiting and time.monotonic() < until:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_ALIVE_SECONDS)
        alive = {node["NodeID"] for node in _alive(ray)}
        waiting = [reference for node, reference in asked.items() if reference in waiting and node in alive]
    answers = {node: _answer(ray, reference, seconds) for node, reference in asked.items()}
    gone = _gone(ray, [node for node, answer in answers.items() if isinstance(answer, _NoAnswer)])
    return [
        (node["NodeManagerHostname"], answer.found if isinstance(answer, _NoAnswer) else answer)
        for node in nodes
        if node["NodeID"] not in gone
        for answer in (answers[node["NodeID"]],)
    ]


class _NoAnswer(NamedTuple):
    """A node did not answer, which is an error only if it is still there."""

    found: Found


def _answer(ray: Any, asked: Any, seconds: float) -> Found | _NoAnswer:
    try:
        return ray.get(asked, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        return _NoAnswer((f"NODE did not answer within {seconds:.0f} s", "look at it with ray status"))
    except ray.exceptions.RayError as error:
        return _NoAnswer((f"NODE runs no tasks: {first_line(error)}", "look at it with ray status"))


def _gone(ray: Any, silent: Sequence[str]) -> set[str]:
    """Those of the nodes that are dead. The cluster may take a moment to say so."""
    until = time.monotonic() + _ALIVE_SECONDS
    while True:
        left = set(silent) & {node["NodeID"] for node in _alive(ray)}
        if not left or time.monotonic() > until:
            return set(silent) - left
        time.sleep(0.2)


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _of_each_folder(paths: Sequence[Path]) -> list[Path]:
    """One path of each folder."""
    return list({path.parent: path for path in paths}.values())[:_FOLDERS]


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[list[str]]:
    """An empty file in each folder, which shows that a node sees the same folder; removed after the block."""
    files = [folder / f".dsmap-{secrets.token_hex(8)}.look" for folder in folders if folder.is_dir()]
    try:
        for file in files:
            file.touch()
        yield [str(file) for file in files]
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@contextmanager
def _stored_tokens(folders: Sequence[str]) -> Iterator[list[str]]:
    """The same in folders of object stores."""
    files = [str(StorePath(folder) / f".dsmap-{secrets.token_hex(8)}.look") for folder in folders]
    written: list[str] = []
    try:
        for file in files:
            write_mark(file)
            written.append(file)
        yield files
    finally:
        for file in written:
            remove_mark(file)
