"""Translates the frames of a camera or a video file one by one, as your own program would.

    python examples/translate_stream.py 0                       # the first camera, until Ctrl-C
    python examples/translate_stream.py clip.mp4 --frames 100

Needs: pip install 'dsmap[cpu]'
"""

import argparse
import time

import cv2
import numpy as np

from dsmap.runtime import Translator


def main() -> None:
    """Prints the frame rate, and how much brighter the translation is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the number of a camera, or a file")
    parser.add_argument("--frames", type=int, default=10**9)
    parser.add_argument("--height", type=int, default=256)
    arguments = parser.parse_args()

    capture = cv2.VideoCapture(int(arguments.source) if arguments.source.isdecimal() else arguments.source)
    translator = Translator.load("summer-winter", domain="winter")
    done, began = 0, time.monotonic()
    while done < arguments.frames:
        there, frame_bgr = capture.read()
        if not there:
            break
        width = round(frame_bgr.shape[1] * arguments.height / frame_bgr.shape[0])
        small_bgr = cv2.resize(frame_bgr, (width, arguments.height), interpolation=cv2.INTER_AREA)
        frame_rgb = cv2.cvtColor(small_bgr, cv2.COLOR_BGR2RGB)
        winter_rgb = translator(frame_rgb)  # uint8 RGB in, uint8 RGB of the same size out
        done += 1
        brighter = np.mean(winter_rgb) - np.mean(frame_rgb)
        print(f"frame {done}: {done / (time.monotonic() - began):.1f} fps, brightness {brighter:+.0f}")
    capture.release()


if __name__ == "__main__":
    main()
