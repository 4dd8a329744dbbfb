"""Pastes the pages of the documentation into a shell, each from top to bottom in one folder of small prepared files.

What cannot run here stands in `NOT_RUN`, with the reason; what would take long runs with what `SHRUNK` appends. Every
other statement runs as it is written.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clips
import documented
import numpy as np
import tiny
from PIL import Image
from ports import free_port

from dsmap.common.images import write_rgb

NOT_PASTED = {
    "docs/making-summer-winter.md": "days of training, with the commands of that day",
    "docs/making-cat-dog.md": "a training of an hour and more",
    "docs/benchmarks/gpu.md": "measurements on a GPU",
    "docs/benchmarks/model.md": "measurements that take hours",
    "docs/benchmarks/training.md": "measurements that take hours",
    "docs/benchmarks/video.md": "measurements of a clip that is not in the repository",
    "docs/scale.md": "clusters and servers, whose own tests run what it says",
}
"""Pages whose commands are parsed, and not run."""

NOT_RUN = [
    (r"^pip install|^python3 -m venv|^apt-get|\bapt-get install", "installs software"),
    (r"^make ", "is what runs this test, or sets up an environment"),
    (r"--install-completion", "changes the shell of whoever runs it"),
    (r"rtsps?://|rtmp://|srt://", "needs a camera of the network"),
    (r"--host 0\.0\.0\.0|DSMAP_TOKEN", "listens to the network"),
    (
        r"^torchrun|^srun|^sbatch|^(sudo )?docker|^podman|^kubectl|^helm|^ray |scontrol|--ray\b|grpc://|^tritonserver",
        "needs other machines",
    ),
    (r"gpu_check|--engine tensorrt|--engine rtx|--hwaccel cuda|nvenc", "needs a GPU, or its packages"),
    (r"--virtual-camera|--list-cameras|/dev/video|OBS Virtual Camera", "needs a camera's driver"),
    (r"vapoursynth|^vspipe", "needs VapourSynth, whose wheels need Python 3.12; its own tests run the filter"),
    (r"ComfyUI", "needs ComfyUI; a test loads the node"),
    (r"\bhf:|models (push|pull)", "needs the Hugging Face Hub"),
    (r"^dsmap import\b|--model \./to-zebra", "needs a checkpoint of CycleGAN's trainer"),
    (r"--model \./edges-shoes|\./munit|\./cyclegan|out/cyclegan", "needs checkpoints of other trainers"),
    (r"tensorboard", "runs until Ctrl-C"),
]
"""(pattern, why a statement with it does not run here)."""

TRAINING = " --preset debug --steps 2 --device cpu --set data.workers=0 --set score_pictures=2"
SHRUNK = [
    (r"^dsmap train\b.*--features \S+\.npz", TRAINING + " --set discriminator.features=true"),
    (r"^dsmap train\b", TRAINING),
    (r"^dsmap polish\b", " --steps 1 --batch-size 1 --device cpu"),
    (r"^dsmap distill\b.*--refiner", " --steps 1 --batch-size 1 --device cpu"),
    (
        r"^dsmap distill\b",
        " --preset debug --steps 1 --batch-size 1 --device cpu --set data.crop=64 --set data.shorter_side=64",
    ),
    (r"^dsmap bench video\b", " --rounds 1 --frames 4"),
    (r"^dsmap bench live\b", " --frames 4 --no-window"),
    (r"^dsmap bench model [a-z]", " --rounds 1 --size 64x64 --threads 1"),
    (r"^dsmap bench model\b", " --rounds 1 --size 64x64 --threads 1 --preset debug"),
    (r"^dsmap bench train\b", " --rounds 1 --size 64 --preset debug"),
    (r"^dsmap eval model\b", " --height 64 --contents 2 --styles 1 --repeats 1 --pairs 1"),
    (r"^dsmap live\b(?!.*--camera)", " --camera holiday.mp4 --no-window --frames 2"),
    (r"^dsmap web\b.*--serve(?!.*--port)", " --port 8000"),
    (r"^dsmap serve\b(?!.*--port)", " --port 8000"),
]
"""(pattern, what is appended to a statement with it); where an option is given twice, the last one counts."""

_PORT = r"(--port |127\.0\.0\.1:|localhost:)(\d{4,5})\b"
SERVERS = r"^dsmap serve\b|^dsmap web\b.*--serve"
SLOW = r"^dsmap (train|polish|distill|export|eval|bench|web|doctor)\b|^dsmap video .*--model"

BEGINS_WITH = {
    "docs/training.md": ("runs/paper",),
    "docs/export.md": ("runs/first",),
    "docs/refiner.md": ("my-model",),
    "docs/evaluation.md": ("runs/winter",),
    "docs/doctor.md": ("my-model",),
    "docs/serve.md": ("my-model",),
    "docs/web.md": ("my-model",),
    "docs/gpu.md": ("my-model",),
    "docs/api.md": ("runs/first",),
    "docs/models.md": ("runs/first",),
}
"""What a page needs from another one: runs of a training, bundles."""

PRELUDES = {
    "summer_rgb": "import numpy as np\nsummer_rgb = np.zeros((48, 64, 3), np.uint8)\n",
    "frames:": "import numpy as np\nframes = [np.zeros((48, 64, 3), np.uint8)] * 2\n",
}
"""What Python blocks that use a name without setting it begin with."""

STAND_INS = {'find_source("0")': 'find_source("holiday.mp4")', 'EngineRequest(kind="rtx", sizes="1280x720")': "None"}
"""In Python blocks: cameras and packages that are not here."""


def why_not_run(text: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN if re.search(pattern, text)), None)


def runnable(text: str, ports: dict[str, int]) -> str:
    """A statement as it is pasted: shorter work, and free ports in place of those that are written."""
    if more := next((more for pattern, more in SHRUNK if re.search(pattern, text)), ""):
        text = re.sub(r"\s+#\s.*$", "", text) + more
    return re.sub(_PORT, lambda found: found[1] + str(ports.setdefault(found[2], free_port())), text)


def script(page: str, *, quick: bool = False) -> str:
    """The page as a script for bash that notes in the file `at` which statement it is at."""
    ports: dict[str, int] = {}
    parts = ["set -eo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, block in enumerate(documented.blocks(page)):
        if block.language == "python" and not quick and not why_not_run(block.text):
            parts += [at(f"{page}:{block.line}: a Python block"), f"python {number}.py"]
        for one in documented.statements(block) if block.language == "sh" else ():
            if why_not_run(one.text) or (quick and re.search(SLOW, one.text)):
                continue
            text = runnable(one.text, ports)
            parts += [at(str(one)), *(served(text) if re.search(SERVERS, text) else [text])]
    return "\n".join(parts) + "\n"


def at(place: str) -> str:
    return f"echo {shlex.quote(place)} > at; echo {shlex.quote('$ ' + place)}"


def served(text: str) -> Iterator[str]:
    """A server in the background; what follows waits until it answers."""
    address = f"http://127.0.0.1:{re.findall(_PORT, text)[0][1]}/"
    yield f"{text} &"
    yield f"for i in $(seq 600); do curl -so /dev/null {address} && break; kill -0 $!; sleep 0.1; done"


def paste(page: str, folder: Path, *, quick: bool = False) -> None:
    """Pastes `page` in `folder`; fails with the statement that failed and the end of what was said."""
    for number, block in enumerate(documented.blocks(page)):
        if block.language == "python":
            (folder / f"{number}.py").write_text(python_block(block), encoding="utf-8")
    commands = folder / ".commands"
    commands.mkdir()
    for name, entry in (("dsmap", "-m dsmap"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {entry} "$@"\n')
        (commands / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    log = folder / "log.txt"
    with log.open("w") as out:
        done = subprocess.run(
            ["bash", "-c", script(page, quick=quick)], cwd=folder, stdout=out, stderr=out, env=environment, timeout=900
        )
    assert done.returncode == 0, f"{(folder / 'at').read_text()}\n{log.read_text()[-3000:]}"


def python_block(block: documented.Block) -> str:
    text = block.text
    for written, instead in STAND_INS.items():
        text = text.replace(written, instead)
    return "".join(prelude for name, prelude in PRELUDES.items() if name in text) + text


def make_inputs(folder: Path) -> None:
    """The files that pages name: small films, images of two domains, a feature network."""
    noise = np.random.default_rng(0)
    for name in ("clip.mp4", "a.mp4", "b.mkv", "old.ts", "clips/a.mp4", "clips/b.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        clips.make_clip(folder / name, frames=6)
    clips.make_clip(folder / "holiday.mp4", frames=12, colours=[(90, 140, 60)], ramp=True, audio=("aac",))
    clips.make_clip(folder / "long.mp4", size=(32, 32), pts=[second * 30000 for second in range(0, 150, 10)])
    drawn = [Image.new("RGB", (48, 40), (40 * number, 90, 60)) for number in range(3)]
    for name in ("dance.gif", "cat.gif"):
        drawn[0].save(folder / name, save_all=True, append_images=drawn[1:], duration=80)
    images = ["snowy.jpg", "snow.jpg", "summer.jpg", "photo.jpg", "alps.jpg", "pond.jpg", "field.jpg", "meadow.jpg"]
    images += [f"frames/{number:05}.png" for number in range(1, 4)]
    images += [f"photos/{season}/{number}.jpg" for season in ("summer", "winter") for number in range(10)]
    images += [
        f"yosemite/{part}{side}/{number}.jpg" for part in ("train", "test") for side in "AB" for number in range(9)
    ]
    images += [f"out/{system}/{number}.jpg" for system in ("ours", "munit") for number in range(9)]
    images += [f"photos/{number}.jpg" for number in range(2)]
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_rgb(folder / name, noise.integers(0, 256, (72, 72, 3), np.uint8))
    for name in ("squeezenet.npz", "squeezenet_v1.0_imagenet.npz"):
        np.savez(folder / name, **tiny.squeezenet_weights())
