"""Translates an image in the default style, in a named style and in a random one.

    python examples/translate_image.py photo.jpg out/

Needs: pip install 'dsmap[cpu]'
"""

import argparse
from pathlib import Path

from dsmap.common.images import read_image, write_image
from dsmap.runtime import Translator


def main() -> None:
    """Writes out/NAME-default.png, out/NAME-fresh-snow.png and out/NAME-seed7.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    image = read_image(arguments.image)  # upright 8-bit sRGB, whatever the file's colour profile
    translator = Translator.load("summer-winter", domain="winter")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, style in {"default": None, "fresh-snow": "fresh-snow", "seed7": 7}.items():
        translator.set_style(style)
        result = arguments.out / f"{arguments.image.stem}-{name}.png"
        write_image(result, translator(image.rgb))
        print(result)


if __name__ == "__main__":
    main()
