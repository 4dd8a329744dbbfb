"""Wraps TensorRT's engines and contexts, of both flavours, in the interfaces of `memory`."""

import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsmap.common.cache_folder import private_folder
from dsmap.common.files import is_own_file
from dsmap.common.state_files import write_state
from dsmap.errors import DsmapError
from dsmap.runtime.backends.tensorrt.memory import Shape
from dsmap.runtime.cuda.base import Address, Stream
from dsmap.runtime.engines.failures import failure
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.tensorrt_api import Flavour, Log

_KERNELS = "rtx-kernels"


class TrtEngine:
    """A deserialised engine. Its weights are on the device: where that is full, making one raises OutOfMemoryError."""

    def __init__(self, flavour: Flavour, data: bytes, title: str, profile: SizeProfile, own_graphs: bool) -> None:
        """`own_graphs`: TensorRT for RTX captures each engine by itself, where no graph of all of them is captured."""
        self.title = title
        self._flavour, self._profile = flavour, profile
        self._log = Log(flavour)
        # The runtime has to live as long as its engines.
        self._runtime = flavour.module.Runtime(self._log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise failure(
                f"{flavour.title} cannot load {title}: {self._log.last_error()}",
                "Run nvidia-smi to check whether the GPU and its driver work.",
            )
        self._kernels = _Kernels(data) if hasattr(self._engine, "create_runtime_config") and _is_rtx(flavour) else None
        self._config = self._rtx_config(own_graphs) if self._kernels is not None else None
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == flavour.module.TensorIOMode.INPUT for n in names}
        self.inputs = tuple(name for name in names if is_input[name])
        self.outputs = tuple(name for name in names if not is_input[name])

    def takes(self, width: int, height: int, batch: int) -> bool:
        return self._profile.takes(width, height, batch)

    def dtype(self, tensor: str) -> np.dtype[np.generic]:
        return np.dtype(self._flavour.module.nptype(self._engine.get_tensor_dtype(tensor)))

    def context(self, stream: Stream) -> "TrtContext":
        strategy = self._flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy if self._config is None else self._config)
        if context is None:
            raise failure(
                f"{self._flavour.title} cannot run {self.title}: {self.last_error()}",
                "Run nvidia-smi to check; another precision or --backend may run.",
            )
        if self._engine.num_optimization_profiles and context.active_optimization_profile < 0:
            context.set_optimization_profile_async(0, stream)
        return TrtContext(self, context)

    def device_memory_bytes(self) -> int:
        """What a context wants for the largest sizes; where it cannot be asked for smaller ones."""
        for name in ("device_memory_size_v2", "device_memory_size"):
            if hasattr(self._engine, name):
                return int(getattr(self._engine, name))
        return 0

    def last_error(self) -> str:
        """The last of TensorRT's messages: its one logger is shared by all engines of a flavour."""
        errors = self._log.logger.errors
        return errors[-1][:400] if errors else "it gave no reason"

    def save_kernels(self) -> None:
        """Keeps what TensorRT for RTX has compiled for this GPU, for the next start."""
        if self._kernels is not None:
            self._kernels.save()

    def close(self) -> None:
        self.save_kernels()
        self._kernels = self._config = None
        self._engine = self._runtime = None

    def _rtx_config(self, own_graphs: bool) -> Any:
        trt = self._flavour.module
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Eager: by default a stand-in kernel runs while the right one is compiled, and a graph would keep the stand-in.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if hasattr(trt, "CudaGraphStrategy"):
            strategies = trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if own_graphs else strategies.DISABLED
        assert self._kernels is not None
        self._kernels.attach(config)
        return config


class TrtContext:
    """An execution context that lives in memory it is given."""

    def __init__(self, engine: TrtEngine, context: Any) -> None:
        self._engine, self._context = engine, context

    def shape(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        if set(inputs) != set(self._engine.inputs):
            raise DsmapError(
                f"{self._engine.title} takes {', '.join(self._engine.inputs)}, expected {', '.join(inputs)}",
                "Export the bundle again.",
            )
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise DsmapError(
                    f"{self._engine.title} does not take {name} as {shape}: {self._engine.last_error()}",
                    "Build the engines for this size: dsmap-export with --sizes.",
                )
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._engine.outputs}
        for name, shape in shapes.items():
            if min(shape) < 0:
                raise DsmapError(f"{self._engine.title} does not know the shape of {name}", "Export the bundle again.")
        return shapes

    def scratch_bytes(self) -> int:
        if hasattr(self._context, "update_device_memory_size_for_shapes"):
            return int(self._context.update_device_memory_size_for_shapes())
        return self._engine.device_memory_bytes()

    def bind(self, addresses: Mapping[str, Address], scratch: Address, scratch_bytes: int) -> None:
        for name in (*self._engine.inputs, *self._engine.outputs):
            if not self._context.set_tensor_address(name, addresses[name]):
                raise DsmapError(
                    f"{self._engine.title} does not take an address for {name}: {self._engine.last_error()}",
                    "Export the bundle again.",
                )
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(scratch, scratch_bytes)
        else:
            self._context.device_memory = scratch

    def enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream):
            raise DsmapError(
                f"TensorRT stopped in {self._engine.title}: {self._engine.last_error()}",
                "Translate at a smaller size, with a smaller --height, or with another --backend.",
            )

    def capture_refusal(self, stream: Stream) -> str | None:
        asks = getattr(self._context, "is_stream_capturable", None)
        if asks is None or asks(stream):
            return None
        return f"TensorRT calls {self._engine.title} not capturable"


class _Kernels:
    """What TensorRT for RTX compiles for this GPU when an engine first runs: seconds, so it is kept on disk."""

    def __init__(self, engine: bytes) -> None:
        self._name = f"{hashlib.sha256(engine).hexdigest()[:24]}.bin"
        self._cache: Any = None
        self._saved = 0

    def attach(self, config: Any) -> None:
        """Gives the engine's contexts the cache. One that is of another version or GPU is not taken, and replaced."""
        self._cache = config.create_runtime_cache()
        data = b""
        with contextlib.suppress(OSError, DsmapError):  # kernels are code: from a folder of ours alone, or none
            path = private_folder(_KERNELS) / self._name
            data = path.read_bytes() if is_own_file(path) else b""
        if data and self._cache.deserialize(data):
            self._saved = len(data)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes it where it has grown. Without room, or a folder of ours alone, all is compiled again next time."""
        if self._cache is None:
            return
        memory = self._cache.serialize()
        data = bytes(memory) if memory is not None else b""
        if len(data) <= self._saved:
            return
        with contextlib.suppress(OSError, DsmapError):
            write_state(private_folder(_KERNELS) / self._name, data)
            self._saved = len(data)


def _is_rtx(flavour: Flavour) -> bool:
    return flavour.name == "rtx"
