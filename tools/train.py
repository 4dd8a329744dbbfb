"""dsmap-train: two folders of images become a checkpoint.

dsmap-train --data FOLDER -o RUN
dsmap-train --domain summer=photos/summer --domain winter=photos/winter -o RUN --preset lite
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, path_given, run
from dsmap.tools.shared.images import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names
from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import note, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsmap.config import TrainConfig
    from dsmap.model.dsmap import DSMAP
    from dsmap.training.datasets import Domains
    from dsmap.training.trainer import Progress

app = new_app()


@app.command(
    help="Train a translation between two domains of unpaired images.",
    epilog="""
    dsmap-train --data FOLDER -o RUN
    dsmap-train --domain summer=photos/summer --domain winter=photos/winter -o RUN
    """,
)
@explained
def train(
    out: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=path_given,
            metavar="RUN",
            help="The run's folder: config, log, samples, checkpoints.",
        ),
    ],
    data: Data = None,
    domain: DomainFolders = None,
    domains: DomainNames = None,
    preset: Annotated[
        str, typer.Option(help="Settings to start from: paper, one of its tasks (summer2winter, ...), lite or debug.")
    ] = "paper",
    config: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Settings laid over the preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as loss.cycle=3.")
    ] = None,
    method: Annotated[str, typer.Option(help="dsmap, or munit: no domain-specific mapping.")] = "dsmap",
    steps: Annotated[int | None, typer.Option(help="Iterations in all.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Feature network: vgg16 (needs torchvision), a SqueezeNet .npz file, or none."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|CHECKPOINT", help="Go on from RUN's latest checkpoint, or from another.")
    ] = None,
    allow_new_data: Annotated[
        bool, typer.Option("--allow-new-data", help="Resume although the images are no longer the same.")
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT|BUNDLE", help="Begin with the generators of another training; its network is taken."
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16 (losses stay in float32).")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile the networks. Default: on a GPU.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, checks and the first batch (RUN/dry-run.png) only."),
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    folders = parse_domain_folders(domain)
    names = parse_domain_names(domains)
    if folders and names:
        raise InputError("--domain and --domains were both given", "--domain NAME=PATH has the name already.")
    from dsmap.common.output_files import check_run_folder
    from dsmap.config import load_train_config
    from dsmap.training.datasets import find_domains

    if folders:
        names = (folders[0][0], folders[1][0]) if len(folders) == 2 else None
    overrides = set_ or []
    generators = None if start_from is None else _generators(start_from, method, overrides)
    if features == "none":
        overrides, features = [*overrides, "loss.contextual=0", "discriminator.features=false"], None
    settings = load_train_config(
        preset,
        config,
        overrides,
        steps=steps,
        features=features,
        precision=precision,
        compile=compile_,
        model=_model(method, names) if generators is None else _network(generators, names, overrides),
    )
    found = find_domains(data, folders, names=settings.model.domains)
    check_run_folder(out)
    _check_kept_apart(out, found, config, resume)
    if features is not None and not settings.uses_features:
        raise InputError(
            f"--features {features} is given, but loss.contextual is 0 and discriminator.features is false",
            "Leave it out, or --set loss.contextual=1.",
        )
    job = _Job(settings, found, out, device, resume, allow_new_data, generators)
    if dry_run:
        job.show()
    else:
        job.train()


def _check_kept_apart(out: Path, domains: "Domains", config: Path | None, resume: str | None) -> None:
    """Raises InputError where the run's own files would take the place of images or of the settings."""
    from dsmap.common.output_files import identity

    folders = {path.parent for domain in domains for path in (*domain.train, *domain.test)}
    if identity(out) in {identity(folder) for folder in folders}:
        raise InputError(f"-o {out} is a folder of the images", "Choose another folder for the run.")
    written = out / "config.yaml"
    if config is not None and resume is None and identity(config) == identity(written):  # resumed, it is the run's own
        raise InputError(
            f"--config {config} is where the run writes its own settings", "Choose another folder with -o."
        )


class _Job:
    """A training, as one of the processes that torchrun started or as the only one; the first does the talking."""

    def __init__(
        self,
        config: "TrainConfig",
        domains: "Domains",
        out: Path,
        device: str,
        resume: str | None,
        allow_new_data: bool,
        start_from: "DSMAP | None" = None,
    ) -> None:
        self.config, self.domains, self.out, self.allow_new_data = config, domains, out, allow_new_data
        self.start_from = start_from
        if os.environ.get("RANK", "0") == "0":
            say("loading torch ...")
        from dsmap.common.distributed import processes_from_torchrun
        from dsmap.training.device import choose_hardware

        self.processes = processes_from_torchrun()
        self.hardware = choose_hardware(config, device, self.processes)
        self.resume = _checkpoint(resume, out, self.say)

    def say(self, line: str) -> None:
        if self.processes.rank == 0:
            say(line)

    def check(self) -> None:
        """The pre-flight, numbered."""
        from dsmap.training.preflight import CHECKS, preflight

        checks = preflight(
            self.config, self.domains, self.out, self.hardware, self.processes, self.resume, self.allow_new_data
        )
        for number, check in enumerate(checks, 1):
            self.say(f"[{number}/{len(CHECKS)}] {check.name:8}  {check.fact}")

    def show(self) -> None:
        """The dry run."""
        import yaml

        from dsmap.training.data import UnpairedBatches
        from dsmap.training.run_log import write_run_image
        from dsmap.training.samples import draw_batch

        for line in yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False).splitlines():
            self.say(line)
        self.check()
        if self.processes.rank != 0:
            return
        batch = UnpairedBatches.of(self.domains, self.config.data, self.config.seed)[0]
        self.out.mkdir(parents=True, exist_ok=True)
        image = self.out / "dry-run.png"
        write_run_image(image, draw_batch(batch, self.config.model.domains))
        self.say(f"the first batch: {image}")
        self.say("dry run: nothing was trained")

    def train(self) -> None:
        """Pre-flight, training, and where the results are."""
        from dsmap.common.distributed import destroy_process_group, init_process_group
        from dsmap.training.trainer import Trainer

        self.check()
        try:
            init_process_group(self.processes, self.hardware.device)
            trainer = Trainer(
                self.config,
                self.domains,
                self.out,
                hardware=self.hardware,
                processes=self.processes,
                resume=self.resume,
                allow_new_data=self.allow_new_data,
                start_from=self.start_from,
                say=self.say,
                warn=say,
            )
            if self.start_from is not None and self.resume is None:
                self.say("the generators begin as those of the other training")
            self.say(f"steps {trainer.step} to {self.config.steps}")
            with _progress(trainer.step, self.config.steps, self.processes.rank == 0) as show:
                last = trainer.train(show)
        except KeyboardInterrupt:
            if self.processes.rank == 0:
                note("continue with --resume auto")
            destroy_process_group()
            raise typer.Exit(130) from None
        destroy_process_group()  # not after an error: it would wait for processes that have gone
        self.say(f"done: {last}")
        self.say(f"samples: {self.out / 'samples'}")
        self.say(f"next: dsmap-export {self.out} -o BUNDLE")


def _model(method: str, names: tuple[str, str] | None) -> dict[str, object]:
    """The settings of the network that options give."""
    if method not in ("dsmap", "munit"):
        raise InputError(f"no method named {method!r}", "Known methods: dsmap, munit.")
    settings: dict[str, object] = {"domains": list(names)} if names else {}
    return settings | ({"mapping": False} if method == "munit" else {})


def _generators(start_from: str, method: str, overrides: list[str]) -> "DSMAP":
    """Those of a run, a checkpoint or a bundle."""
    from dsmap.config import override_key
    from dsmap.training.resume import SHAPELESS

    shaping = (o for o in overrides if o.startswith("model.") and override_key(o) not in SHAPELESS)
    given = next(shaping, None) or ("--method munit" if method == "munit" else None)
    if given:
        raise InputError(
            f"{given} is given beside --start-from {start_from}", "Leave it out: the network is the other training's."
        )
    from dsmap.tools.shared.generators import read_generators

    return read_generators(start_from)


def _network(generators: "DSMAP", names: tuple[str, str] | None, overrides: list[str]) -> dict[str, object]:
    """The settings of the network less those that are overridden; the domains get other names where some are given."""
    from dsmap.config import override_key

    theirs = generators.domains
    if names is not None and names == theirs[::-1]:
        raise InputError(
            f"the domains are given as {', '.join(names)}; in the training to start from they are {', '.join(theirs)}",
            "Give them in its order.",
        )
    network = generators.config.model_dump(mode="json") | {"domains": list(names or theirs)}
    overridden = {override_key(override) for override in overrides}
    return {key: value for key, value in network.items() if f"model.{key}" not in overridden}


def _checkpoint(resume: str | None, out: Path, say: Notify) -> Path | None:
    """The checkpoint that --resume means. `auto` starts anew in a run folder that has none yet."""
    if resume is None:
        return None
    from dsmap.training.checkpoint import find_checkpoint, list_checkpoints

    if resume != "auto":
        return find_checkpoint(Path(resume))
    if not list_checkpoints(out / "checkpoints"):
        say(f"--resume auto: no checkpoint in {out} yet, starting at step 0")
        return None
    return find_checkpoint(out)


@contextmanager
def _progress(start: int, total: int, visible: bool) -> "Iterator[Callable[[Progress], None]]":
    """A live line with losses, iterations per second and the time left; plain lines where there is no terminal."""
    began: float | None = None  # when the first iteration was done: it may have compiled and warmed up
    waited = 0.0

    def facts(progress: "Progress") -> tuple[float, float]:
        """Iterations per second, and the share of the time that was spent waiting for images."""
        nonlocal waited, began
        if began is None:
            began = time.monotonic()
            return 0.0, 0.0
        waited += progress.waited
        spent = max(time.monotonic() - began, 1e-9)
        return (progress.step - start - 1) / spent, min(1.0, waited / spent)

    if not visible:
        yield lambda _progress: None
        return

    def line(progress: "Progress") -> None:
        rate, share = facts(progress)
        if progress.step % 50 == 0 or progress.step == total:
            g, d = progress.losses["generators"], progress.losses["discriminators"]
            say(
                f"step {progress.step}/{total}  {rate:.2f} it/s  generators {g:.2f}  discriminators {d:.2f}  "
                f"waiting for images {share:.0%}"
            )

    # Short enough for a terminal of 80 columns: G and D are the losses.
    with bar(text=True, width=10, transient=False) as drawn:
        if drawn is None:
            yield line
            return
        drawn.begin(total=total, completed=start)

        def live(progress: "Progress") -> None:
            rate, share = facts(progress)
            g, d = progress.losses["generators"], progress.losses["discriminators"]
            text = f"{rate:.2f} it/s  G {g:.1f}  D {d:.1f}  data {share:.0%}"
            drawn.update(progress.step, text=text)

        yield live


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
