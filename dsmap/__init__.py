"""dsmap: unpaired image translation with domain-specific mappings, from training to real-time video.

Chang, Wang, Chuang, "Domain-Specific Mappings for Generative Adversarial Style Transfer", ECCV 2020.

`dsmap` is the network and how it learns (torch), `dsmap.export` turns a checkpoint into a bundle, `dsmap.runtime`
turns a bundle into frames (no torch), `dsmap.tools` holds the commands. Importing `dsmap` itself imports none of them.

To read the method in one sitting, in this order: `config` (what can be set), `layers`, `networks`, `model` (the
network), `losses`, `objective` (what one iteration computes), `learner` (one iteration). Around it is the training as
people run it: `trainer`, with `data`, `domains`, `images`; `checkpoint`, `resume`, `run_log`, `samples`, `styles`,
`quality`; `preflight`, `footprint`, `memory`, `device`, `distributed`. `official` and `golden` read what the authors'
code wrote.
"""

import os as _os

__version__ = "0.1.0"

# ONNX Runtime from 1.29 on makes a device id and reports to its makers what was run, also on Linux and macOS, and the
# thread that does so can hang or crash a process that ends. It asks this variable once, when it is loaded.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a source checkout export/, runtime/ and tools/ lie beside this folder, not in it. An installed dsmap does not need
# this; `python -m dsmap.tools...` started in the root of a checkout that was not installed in place does.
_root = _os.path.dirname(_os.path.dirname(_os.path.realpath(__file__)))
if all(_os.path.isfile(_os.path.join(_root, *name)) for name in (("pyproject.toml",), ("runtime", "translator.py"))):
    __path__.append(_root)
