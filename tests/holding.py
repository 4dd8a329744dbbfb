"""Python processes that wait before they write something of a certain name: they cannot end before it is time."""

import os
from pathlib import Path

_HOOK = """
import os, sys, time

def wait(event, arguments):
    if event in ("open", "os.mkdir", "os.rename") and os.environ["HELD_NAME"] in os.path.basename(str(arguments[0])):
        while os.path.exists(os.environ["HELD_WHILE"]):
            time.sleep(0.01)

sys.addaudithook(wait)
"""


def holding(folder: Path, name: str) -> tuple[dict[str, str], Path]:
    """(environment, file): with that environment nothing with `name` in its name is written while the file is there."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HOOK)
    (folder / "hold").touch()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "HELD_NAME": name, "HELD_WHILE": str(folder / "hold")}, folder / "hold"
