"""PyTorch on an NVIDIA GPU, on Apple's, or on the CPU: a bundle's graphs rebuilt as a module."""

import os

import numpy as np
import torch
from torch import Tensor, fx

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    Pending,
    PendingOnDevice,
    best_precision,
)
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.torch.cuda_device import TorchCuda
from dsmap.runtime.backends.torch.devices import (
    compiled,
    find_device,
    name_of,
    version,
    why_not_compiled,
    why_not_cuda,
)
from dsmap.runtime.backends.torch.failures import torch_errors
from dsmap.runtime.backends.torch.gpu_frames import GpuFrames
from dsmap.runtime.backends.torch.host_frames import HostFrames, cpu_threads
from dsmap.runtime.backends.torch.modules import single_module, translation_module
from dsmap.runtime.bundle.bundle import Bundle, GraphData
from dsmap.runtime.engines.store import log_line
from dsmap.runtime.system.cpu import allowed_cores


class TorchBackend(Backend):
    """On CUDA in half precision where the bundle has it, compiled, with CUDA graphs; elsewhere as it is.

    Styles are encoded, and their parameters computed, on the CPU in float32.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        self._device = find_device()
        on_cpu = self._device.type == "cpu"
        preferred = ("fp32", "fp16") if on_cpu else ("fp16", "fp32")
        self.precision = best_precision(bundle, settings.precision, (*preferred, *bundle.precisions))
        if self.precision == "int8":
            raise DsmapError("torch runs the fp16 and fp32 graphs here, not int8", "Pass --precision fp16 or fp32.")
        self.on_host = self._device.type != "cuda"
        # As in onnxruntime_cuda: TF32 rounds float32's factors to 10 bits, and not where float32 is asked for by name.
        self._tf32 = settings.precision != "fp32" if self.precision == "fp32" else None
        not_compiled = why_not_compiled(self._device)
        self.description = self._describe(not_compiled)
        unused = why_not_cuda(self._device)
        self.title = f"{name_of(self._device)} (PyTorch)" + (f", {unused}" if unused else "")
        threads = settings.threads if settings.threads is not None else allowed_cores()
        self._threads = threads or os.cpu_count() or 1
        self._bundle, self._target = bundle, target
        of_styles = bundle.manifest.has_styles
        self._style_mlp = single_module(self._graph("style_mlp"), "style", wanted="style_params") if of_styles else None
        self._styled: tuple[Codes, Tensor] | None = None
        module = translation_module(self._read, settings.source or bundle.source_of(target), target)
        self._frames = self._runner(module, not_compiled is None, settings)
        self.takes_device_frames = isinstance(self._frames, GpuFrames)
        self.in_flight, self.concurrency = self._frames.in_flight, self._frames.concurrency

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        params = self._params(style_ns)
        if isinstance(self._frames, GpuFrames):
            return self._frames.submit(frames_nhwc, params)
        return self._frames.submit(frames_nhwc, style_ns, params)

    def submit_device(self, frame: DeviceFrame, style_ns: Codes, *, keep: bool = False) -> PendingOnDevice:
        assert isinstance(self._frames, GpuFrames), "others do not take them"
        return self._frames.submit_device(frame, self._params(style_ns), keep=keep)

    def cancel(self) -> None:
        self._frames.cancel()

    def close(self) -> None:
        self._frames.close()
        self._styled = None

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Used once per style image, if at all: not kept.
        encoder = single_module(self._graph("style_encoder"), "frames", wanted="style")
        return self._on_cpu(encoder, np.require(frames_nhwc, requirements=("C", "W"))).numpy()

    def _describe(self, not_compiled: str | None) -> str:
        """What runs; said at once, too, where it is not what one expects of a machine with an NVIDIA GPU."""
        arithmetic = f"{self.precision} with TF32" if self._tf32 and self._device.type == "cuda" else self.precision
        unused = why_not_cuda(self._device)
        told = ", ".join(
            [
                f"torch {version()} on {name_of(self._device)}{f' ({unused})' if unused else ''}",
                arithmetic,
                not_compiled or "compiled",
            ]
        )
        if unused or (self._device.type == "cuda" and not_compiled):
            log_line(told)
        return told

    def _runner(self, module: fx.GraphModule, compile_it: bool, settings: BackendSettings) -> GpuFrames | HostFrames:
        """What translates frames with the module, after the smallest frame has been translated."""
        with torch_errors():
            module = module.to(self._device)
            self._check_runs(module)
        if self._device.type != "cuda":
            return HostFrames(module, self._device, self._threads, settings.host_frames_at_once)
        # The weights went up on the stream of this thread, and frames have streams that do not wait for it.
        torch.cuda.synchronize()
        compile_module = (lambda: compiled(module)) if compile_it else None
        return GpuFrames(TorchCuda(), module.forward, compile_module, settings.frames_at_once, self._tf32)

    def _check_runs(self, module: fx.GraphModule) -> None:
        """Translates the smallest frame: an installed torch may have no kernels for this GPU."""
        side = self._bundle.manifest.sizes.side_from()
        params = self._params(np.zeros((1, self._bundle.manifest.style_dim), np.float32))
        frame = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        try:
            with torch.inference_mode(), cpu_threads(self._threads):
                output = module.forward(frame.to(self._device), params.to(self._device)).cpu()
        except RuntimeError as error:
            if "no kernel image" not in str(error):
                raise
            major, minor = torch.cuda.get_device_capability(self._device)
            raise DsmapError(
                f"torch {version()} has no kernels for compute capability {major}.{minor}",
                "Install a build of torch for this GPU, or use another --backend.",
            ) from error
        if output.shape != frame.shape or output.dtype != torch.uint8:
            raise DsmapError(
                f"the model gives {output.dtype} of {tuple(output.shape)} for frames of {tuple(frame.shape)}",
                "Export the bundle again.",
            )

    def _params(self, style_ns: Codes) -> Tensor:
        """The parameters that the decoder takes for these styles; the same tensor while the style stays.

        On the CPU for a GPU's lanes, which upload it, else on the device.
        """
        styled = self._styled
        if styled is None or not np.array_equal(styled[0], style_ns):
            codes = np.array(style_ns, np.float32)
            params = torch.from_numpy(codes) if self._style_mlp is None else self._on_cpu(self._style_mlp, codes)
            styled = style_ns.copy(), params if self._device.type == "cuda" else params.to(self._device)
            self._styled = styled
        return styled[1]

    def _on_cpu(self, module: fx.GraphModule, array: np.ndarray) -> Tensor:
        with torch_errors(), torch.inference_mode(), cpu_threads(self._threads):
            output = module.forward(torch.from_numpy(array))
            return torch.as_tensor(output, dtype=torch.float32)

    def _read(self, component: str, domain: str) -> GraphData | None:
        return self._bundle.graph_data(component, domain, self.precision)

    def _graph(self, component: str) -> GraphData:
        """A graph of the target that works on styles, in float32."""
        graph = self._bundle.graph_data(component, self._target)
        assert graph is not None, "a bundle is read only if it has it"
        return graph
