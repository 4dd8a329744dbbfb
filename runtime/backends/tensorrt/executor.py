"""Runs encoder, mapping and decoder in a row on a CUDA stream, for frames of one size.

Each frame in flight has a slot: pinned memory on the host, frames and style on the device, contexts and a graph of its
own. Slots are spread over lanes, one for each compute stream: activations and scratch memory exist once in a lane,
which computes one frame at a time. Uploads and downloads have streams of their own, and overlap with the computation of
other frames.

    upload stream     up 1  up 2  up 3
    compute stream 1        run 1    run 3
    compute stream 2              run 2
    download stream                  down 1   down 2  down 3
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.backends.tensorrt.memory import MIN_SCRATCH_BYTES, Context, Engine, Memory, Shape, Tensor, as_array
from dsmap.runtime.cuda.base import Address, Cuda, Graph, Stream

_EXPORT_AGAIN = "Export the bundle again."


class EngineSet(NamedTuple):
    """The engines of one direction."""

    encoder: Engine
    mapping: Engine | None
    decoder: Engine
    style_mlp: Engine | None

    def present(self) -> list[Engine]:
        """All engines that the direction has."""
        return [engine for engine in self if engine is not None]


class Streams(NamedTuple):
    """Copies have streams of their own, or they would wait for the computation of the frame before."""

    upload: Stream
    compute: tuple[Stream, ...]
    download: Stream

    def all(self) -> list[Stream]:
        """Each of them."""
        return [self.upload, *self.compute, self.download]


class ComputeLane:
    """A compute stream, and the memory of the one frame that is computed on it."""

    def __init__(self, stream: Stream, style_context: Context | None) -> None:
        self.stream = stream
        self.style_context: Any = style_context  # None without styles, and once closed
        self.between: dict[str, Tensor] = {}
        """Activations, by name."""
        self.scratch = Address(0)
        self.scratch_bytes = 0


class Slot:
    """The memory of one frame (or batch) in flight."""

    def __init__(self, memory: Memory, lane: ComputeLane, frames: Shape, styles: Shape, params_bytes: int) -> None:
        self.lane = lane
        frame_bytes, style_bytes = int(np.prod(frames)), max(4, int(np.prod(styles)) * 4)
        self.frames_host = memory.host(frame_bytes)
        self.output_host = memory.host(frame_bytes)
        self.style_host = memory.host(style_bytes)
        self.frames = memory.device(frame_bytes)
        self.output = memory.device(frame_bytes)
        self.codes = memory.device(style_bytes)
        self.params = memory.device(params_bytes)
        self.style: Codes | None = None
        """The codes that are on the device."""
        self.uploaded, self.computed, self.downloaded = memory.event(), memory.event(), memory.event()
        self.contexts: list[Context] = []
        self.ran = False
        """Its contexts have run once: before that they cannot be captured."""
        self.graph: Graph | None = None


class Executor:
    """Contexts, memory and CUDA graphs for frames of one size and batch."""

    def __init__(
        self, cuda: Cuda, streams: Streams, engines: EngineSet, frames: Shape, style_dim: int, slots: int
    ) -> None:
        """Compute streams that `streams` has beyond the number of slots are not used."""
        self.engines, self.frames_shape = engines, frames
        self._cuda, self._streams = cuda, streams
        self._memory = Memory(cuda)
        self.no_graphs: str | None = cuda.no_graphs
        """Why no CUDA graph is captured; None while one is, or will be."""
        try:
            self._make(style_dim, slots)
        except BaseException:
            self._memory.free()
            raise

    def _make(self, style_dim: int, slots: int) -> None:
        batch = self.frames_shape[0]
        codes = (batch, style_dim)
        mlp, params_shape = self.engines.style_mlp, None
        self.lanes = [
            ComputeLane(stream, None if mlp is None else mlp.context(stream))
            for stream in self._streams.compute[:slots]
        ]
        if mlp is not None:
            (params_shape,) = {lane.style_context.shape({"style": codes})["style_params"] for lane in self.lanes}
        params_bytes = 4 if params_shape is None else int(np.prod(params_shape)) * 4
        self.slots = [
            Slot(self._memory, self.lanes[i % len(self.lanes)], self.frames_shape, codes, params_bytes)
            for i in range(slots)
        ]
        bindings = [self._bindings(slot, params_shape) for slot in self.slots]
        for lane in self.lanes:
            contexts = [c for slot in self.slots if slot.lane is lane for c in slot.contexts]
            contexts += [] if lane.style_context is None else [lane.style_context]
            lane.scratch_bytes = max(MIN_SCRATCH_BYTES, *(context.scratch_bytes() for context in contexts))
            lane.scratch = self._memory.device(lane.scratch_bytes)
        for slot, addresses in zip(self.slots, bindings, strict=True):
            for context, of_context in zip(slot.contexts, addresses, strict=True):
                context.bind(of_context, slot.lane.scratch, slot.lane.scratch_bytes)

    def _bindings(self, slot: Slot, params: Shape | None) -> list[dict[str, Address]]:
        """Makes a slot's contexts and gives their addresses. Tensors that all slots of its lane share are made here.

        `params`: the shape of the style's parameters; None without styles.
        """
        between = slot.lane.between
        uint8, float32 = np.dtype(np.uint8), np.dtype(np.float32)
        frames = {"frames": Tensor(slot.frames, self.frames_shape, uint8)}
        addresses = [self._add(slot, self.engines.encoder, frames)]
        mapped = between["content"]
        if self.engines.mapping is not None:
            inputs = {"content": mapped, "skip": between["skip"]}
            addresses.append(self._add(slot, self.engines.mapping, inputs))
            mapped = between["mapped"]
        inputs = {"mapped": mapped}
        if params is not None:
            inputs["style_params"] = Tensor(slot.params, params, float32)
        addresses.append(self._add(slot, self.engines.decoder, inputs))
        return addresses

    def _add(self, slot: Slot, engine: Engine, inputs: dict[str, Tensor]) -> dict[str, Address]:
        """Makes a slot's context of an engine; gives the addresses of its inputs and outputs."""
        between = slot.lane.between
        for name, tensor in inputs.items():
            if engine.dtype(name) != tensor.dtype:
                got, expected = engine.dtype(name), tensor.dtype
                raise DsmapError(f"{engine.title} takes {name} as {got}, expected {expected}", _EXPORT_AGAIN)
        context = engine.context(slot.lane.stream)
        slot.contexts.append(context)
        addresses = {name: tensor.address for name, tensor in inputs.items()}
        for name, shape in context.shape({name: tensor.shape for name, tensor in inputs.items()}).items():
            if name == "frames":
                if shape != self.frames_shape:
                    raise DsmapError(f"{engine.title} gives {shape}, expected {self.frames_shape}", _EXPORT_AGAIN)
                addresses[name] = slot.output
                continue
            if name not in between:
                tensor = Tensor(Address(0), shape, engine.dtype(name))
                between[name] = tensor._replace(address=self._memory.device(tensor.nbytes))
            addresses[name] = between[name].address
        return addresses

    @property
    def device_bytes(self) -> int:
        """Memory on the device, without the engines' weights."""
        return self._memory.device_bytes

    def begin(self, slot: Slot, frames_nhwc: Frames, style_ns: Codes) -> None:
        """Starts a translation in a free slot; `finish` waits for it. The frames are copied at once."""
        cuda, streams, compute = self._cuda, self._streams, slot.lane.stream
        as_array(slot.frames_host, self.frames_shape, np.uint8)[...] = frames_nhwc
        cuda.upload(slot.frames, slot.frames_host, streams.upload)
        styled = self.engines.style_mlp is not None
        new_style = styled and (slot.style is None or not np.array_equal(slot.style, style_ns))
        if new_style:
            slot.style = None  # until the upload is done
            as_array(slot.style_host, style_ns.shape, np.float32)[...] = style_ns
            cuda.upload(slot.codes, slot.style_host, streams.upload)
        cuda.record(slot.uploaded, streams.upload)
        cuda.wait(compute, slot.uploaded)
        if new_style:
            self._run_style(slot)
            slot.style = style_ns.copy()
        self._compute(slot)
        cuda.record(slot.computed, compute)
        cuda.wait(streams.download, slot.computed)
        cuda.download(slot.output_host, slot.output, streams.download)
        cuda.record(slot.downloaded, streams.download)

    def finish(self, slot: Slot) -> Frames:
        """Waits for the translation in the slot; from any thread."""
        self._cuda.synchronise(slot.downloaded)
        return as_array(slot.output_host, self.frames_shape, np.uint8).copy()

    def stages_ms(self, slot: Slot, frames_nhwc: Frames, style_ns: Codes) -> dict[str, float]:
        """Milliseconds of each stage of one frame on the device, without a graph and with nothing else in flight."""
        cuda, streams, compute = self._cuda, self._streams, slot.lane.stream
        names = ["encoder", *(["mapping"] if self.engines.mapping else []), "decoder"]
        timers = Memory(cuda)
        marks = [timers.event(timing=True) for _ in range(len(names) + 5)]
        self.begin(slot, frames_nhwc, style_ns)
        self.finish(slot)
        cuda.record(marks[0], streams.upload)
        cuda.upload(slot.frames, slot.frames_host, streams.upload)
        cuda.record(marks[1], streams.upload)
        cuda.wait(compute, marks[1])
        cuda.record(marks[2], compute)
        for context, mark in zip(slot.contexts, marks[3:], strict=False):
            context.enqueue(compute)
            cuda.record(mark, compute)
        done = marks[2 + len(names)]
        cuda.wait(streams.download, done)
        cuda.record(marks[-2], streams.download)
        cuda.download(slot.output_host, slot.output, streams.download)
        cuda.record(marks[-1], streams.download)
        cuda.synchronise(marks[-1])
        times = {"upload": cuda.elapsed_ms(marks[0], marks[1])}
        for i, name in enumerate(names):
            times[name] = cuda.elapsed_ms(marks[2 + i], marks[3 + i])
        times["download"] = cuda.elapsed_ms(marks[-2], marks[-1])
        timers.free()
        return times

    def close(self) -> None:
        """Frees its memory. No slot may be in use."""
        for slot in self.slots:
            if slot.graph is not None:
                self._cuda.free_graph(slot.graph)
            slot.graph, slot.contexts = None, []
        for lane in self.lanes:
            lane.style_context = None
        self._memory.free()

    def _run_style(self, slot: Slot) -> None:
        """Computes the style's parameters, outside the graph: only for a new style."""
        addresses = {"style": slot.codes, "style_params": slot.params}
        lane = slot.lane
        lane.style_context.bind(addresses, lane.scratch, lane.scratch_bytes)
        lane.style_context.enqueue(lane.stream)

    def _compute(self, slot: Slot) -> None:
        """Runs the engines: the first frame directly, which prepares the contexts; from the second on as a graph."""
        stream = slot.lane.stream
        if slot.graph is None and slot.ran and self.no_graphs is None:
            slot.graph = self._capture(slot)
        if slot.graph is not None:
            self._cuda.launch(slot.graph, stream)
            return
        for context in slot.contexts:
            context.enqueue(stream)
        slot.ran = True

    def _capture(self, slot: Slot) -> Graph | None:
        """Captures the engines as a graph; None where that is refused, and then `no_graphs` says why."""
        stream = slot.lane.stream
        refusal = None
        for context in slot.contexts:
            refusal = refusal or context.capture_refusal(stream)
        if refusal is None:
            try:
                self._cuda.begin_capture(stream)
                try:
                    for context in slot.contexts:
                        context.enqueue(stream)
                except DsmapError:
                    with contextlib.suppress(DsmapError):  # ends the capture; its result is not needed
                        self._cuda.free_graph(self._cuda.end_capture(stream))
                    raise
                return self._cuda.end_capture(stream)
            except DsmapError as error:
                refusal = error.fact
        self.no_graphs = refusal
        return None
