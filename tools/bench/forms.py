"""Makes the forms of a network that `dsmap-bench model` compares: torch in several shapes, and exported graphs."""

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsmap.common.notify import Notify
from dsmap.config import load_train_config
from dsmap.errors import DsmapError
from dsmap.export.graphs import Graph, from_frames, graphs, to_frames, write_graph
from dsmap.export.int8 import quantise
from dsmap.export.rewrites import Rewrites, rewritten
from dsmap.model.dsmap import DSMAP, initialise_generators
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.openvino import import_openvino
from dsmap.runtime.backends.registry import BACKENDS
from dsmap.runtime.bundle.bundle import Bundle, Manifest, Sizes, Style, describe_components
from dsmap.tools.bench.plain_step import use_plain_upsampling
from dsmap.training.checkpoint import load_generators, read_checkpoint

Frames = npt.NDArray[np.uint8]
Run = Callable[[Frames], Frames]
"""uint8 RGB (1, H, W, 3) -> the same shape, translated."""

REWRITES = {
    "plain export": Rewrites(upsampling=False, tail=False, scaling=False),
    "upsampling folded": Rewrites(upsampling=True, tail=False, scaling=False),
    "folded, block tail": Rewrites(upsampling=True, tail=True, scaling=False),
    "all rewrites": Rewrites(),
}
"""The exports, by what their rows are called."""
_CALIBRATION_IMAGES = 2  # with more, the search for the blocks to leave in float takes many minutes
_COMPILERS = ("c++", "g++", "clang++", "cl")


def open_network(checkpoint: Path | None, preset: str, settings: Sequence[str]) -> DSMAP:
    """The network of a run (its averaged weights), or of a preset with `settings` and random weights; in eval mode."""
    if checkpoint is not None:
        return load_generators(read_checkpoint(checkpoint))
    config = load_train_config(preset, None, settings).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DSMAP(config)
        initialise_generators(model)
    return model.eval()


class Forms:
    """Ways to run `model` from its first domain to its second; exports go to `folder` when they are first asked for.

    `images`: uint8 RGB (H, W, 3), on which int8 is calibrated.
    """

    def __init__(self, model: DSMAP, folder: Path, images: Sequence[Frames], threads: int | None, say: Notify) -> None:
        self.model, self.folder, self.images, self.threads, self.say = model, folder, images, threads, say
        self.source, self.target = model.domains
        self.style_s = np.linspace(-1, 1, model.config.style_dim, dtype=np.float32)
        self._files: dict[str, dict[tuple[str, str], Path]] = {}
        self._int8: dict[str, dict[tuple[str, str], Path]] = {}

    def makers(self) -> dict[str, Callable[[], Run]]:
        """All forms by name, the one that the others are compared to first. Making one may raise DsmapError."""

        def by_backend(backend: str, name: str, precision: str = "fp32") -> Callable[[], Run]:
            return lambda: self._backend(backend, name, precision)

        found: dict[str, Callable[[], Run]] = {
            "torch, the authors' shape": self._torch_plain,
            "torch.compile of it": self._torch_compiled,
            "torch, upsampling folded, channels last": self._torch_folded,
        }
        found |= {f"ONNX Runtime, {name}": by_backend("cpu", name) for name in REWRITES}
        found |= {f"OpenVINO, {name}": by_backend("openvino", name) for name in REWRITES}
        for title, backend in (("ONNX Runtime", "cpu"), ("OpenVINO", "openvino")):
            for name in ("all rewrites", "plain export"):
                found[f"{title} int8, {name}"] = by_backend(backend, name, "int8")
        return found

    def _torch_plain(self) -> Run:
        model = copy.deepcopy(self.model)
        use_plain_upsampling(model)
        style = torch.from_numpy(self.style_s)[None]
        return self._in_torch(lambda x: model.translate(x, self.source, self.target, style))

    def _torch_compiled(self) -> Run:
        if not any(map(shutil.which, _COMPILERS)):
            raise DsmapError("no C++ compiler here", f"Install one of {', '.join(_COMPILERS)}.")
        model = copy.deepcopy(self.model)
        use_plain_upsampling(model)
        style = torch.from_numpy(self.style_s)[None]
        compiled = torch.compile(lambda x: model.translate(x, self.source, self.target, style))
        run = self._in_torch(compiled)
        try:
            run(self.images[0][None])
        except Exception as error:  # whatever torch's compiler meets
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DsmapError(f"torch.compile failed: {first}", "Leave it out: --skip compile.") from error
        return run

    def _torch_folded(self) -> Run:
        model = rewritten(self.model, REWRITES["upsampling folded"])
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        slot = model.slot(self.target)
        with torch.no_grad():
            params = model.style_mlps[slot](torch.from_numpy(self.style_s)[None])

        def translate(x_nchw: Tensor) -> Tensor:
            content = model.encode(x_nchw.contiguous(memory_format=torch.channels_last), self.source)
            return model.decoders[slot](model.map(content, self.target), params)

        return self._in_torch(translate)

    def _in_torch(self, translate: Callable[[Tensor], Tensor]) -> Run:
        def run(frames: Frames) -> Frames:
            with torch.no_grad():
                return to_frames(translate(from_frames(torch.from_numpy(frames)))).numpy()

        return run

    def _backend(self, backend: str, name: str, precision: str) -> Run:
        kind = BACKENDS[backend]()
        if backend == "openvino":
            import_openvino()  # if it is missing, nothing has been exported in vain
        loaded = kind(
            self.bundle(name, precision), self.target, BackendSettings(threads=self.threads, precision=precision)
        )
        return lambda frames: loaded.translate(frames, self.style_s[None])

    def files(self, name: str) -> dict[tuple[str, str], Path]:
        """The float32 graphs of an export, by component and domain; those of one direction."""
        if name not in self._files:
            folder = self.folder / name.replace(" ", "-").replace(",", "")
            folder.mkdir()
            self.say(f"  exporting: {name} ...")
            wanted = [g for g in graphs(self.model, REWRITES[name]) if self._is_wanted(g)]
            for graph in wanted:
                write_graph(graph, folder / graph.file_name)
            self._files[name] = {(g.component, g.domain): folder / g.file_name for g in wanted}
        return self._files[name]

    def _is_wanted(self, graph: Graph) -> bool:
        domain = self.source if graph.component == "content_encoder" else self.target
        return graph.domain == domain and graph.component != "style_encoder"

    def bundle(self, name: str, precision: str) -> Bundle:
        """An export as a bundle of one direction, which is written down nowhere."""
        files, config = self.files(name), self.model.config
        sides = {"multiple_of": config.multiple_of, "minimum": config.minimum_size}
        zero = [0.0] * config.style_dim
        manifest = Manifest(
            name=name,
            domains=config.domains,
            precision="fp32",
            style_dim=config.style_dim,
            sizes=Sizes(**sides, style_minimum=config.style_minimum_size, trained_at=config.style_minimum_size),
            architecture=config.model_dump(mode="json"),
            components=describe_components(self.folder, files),
            variants={"int8": describe_components(self.folder, self._quantised(name))} if precision == "int8" else {},
            styles={domain: Style(mean=zero, std=zero, pictures=0) for domain in config.domains},
            licence="",
            card="",
            provenance={},
            verification={},
        )
        return Bundle(self.folder, manifest)

    def _quantised(self, name: str) -> dict[tuple[str, str], Path]:
        if name not in self._int8:
            files = self.files(name)
            self.say(f"  quantising: {name} ...")
            # One direction: the other has no images, and of its graphs only the MLP is asked for.
            both = {**files, ("style_mlp", self.source): files["style_mlp", self.target]}
            images = {self.source: self.images[:_CALIBRATION_IMAGES], self.target: []}
            styles = {domain: [self.style_s] for domain in (self.source, self.target)}
            folder = next(iter(files.values())).parent
            made = quantise(both, folder, images, styles, lambda line: self.say(f"    {line}"))
            self._int8[name] = made.files
        return self._int8[name]
