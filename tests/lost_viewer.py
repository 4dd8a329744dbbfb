"""A viewer in a process of its own, to be killed: it writes its offer, reads the answer, and says when results come."""

import asyncio
import json
import os
import sys

from viewers import Viewer, picture


async def main() -> None:
    viewer = Viewer(picture())
    os.write(1, json.dumps(await viewer.offer()).encode() + b"\n")
    await viewer.accept(json.loads(await asyncio.to_thread(sys.stdin.readline)))
    await viewer.until(lambda: viewer.results > 0)
    os.write(1, b"results\n")
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main())
