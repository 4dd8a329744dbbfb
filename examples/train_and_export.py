"""Trains a model on two folders of images, exports it, and translates an image with it.

    python examples/train_and_export.py photos/summer photos/winter out/

This takes the preset for debugging: a tiny network and a few steps, to see that everything works. For results worth
looking at take "lite" (hours on a CPU) or "paper" (a GPU).

Needs: pip install 'dsmap[cpu,train,export]'
"""

import argparse
from pathlib import Path

from dsmap.common.images import read_rgb, write_rgb
from dsmap.config import load_train_config
from dsmap.export.request import ExportRequest
from dsmap.export.run import export_model
from dsmap.runtime import Translator
from dsmap.training.datasets import find_domains
from dsmap.training.job import TrainingJob, TrainRequest


def main() -> None:
    """Writes OUT/run, OUT/model and OUT/translated.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder of images")
    parser.add_argument("second", type=Path, help="folder of images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()

    names = arguments.first.name, arguments.second.name
    domains = find_domains(None, [(names[0], arguments.first), (names[1], arguments.second)])
    config = load_train_config(
        arguments.preset,
        overrides=["loss.contextual=0", "discriminator.features=false"],  # neither needs a feature network then
        steps=arguments.steps,
        model={"domains": names},
    )
    request = TrainRequest(config=config, domains=domains, run=arguments.out / "run", device="cpu")
    with TrainingJob(request, print).trainer() as trainer:
        trainer.train(lambda progress: print(f"step {progress.step} of {config.steps}"))

    export_model(ExportRequest(checkpoint=request.run, out=arguments.out / "model"), say=print)

    translator = Translator.load(arguments.out / "model", domain=names[1])
    write_rgb(arguments.out / "translated.png", translator(read_rgb(domains[0].train[0])))
    print(arguments.out / "translated.png")


if __name__ == "__main__":
    main()
