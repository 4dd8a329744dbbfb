"""dsmap: unpaired image translation with domain-specific mappings, from training to real-time video.

Chang, Wang, Chuang, "Domain-Specific Mappings for Generative Adversarial Style Transfer", ECCV 2020.

`dsmap` is the network and its training (torch), `dsmap.export` turns a checkpoint into a bundle, `dsmap.runtime` runs a
bundle (no torch), `dsmap.tools` holds the commands. Importing `dsmap` itself imports none of them.

To read the method in one sitting, in this order:

    config/networks, config/training             all settings
    model/layers, networks, dsmap, discriminator the networks
    training/losses, objective                   what an iteration computes
    training/step_inputs, learner                an iteration
    training/trainer                             the loop

Around the loop, in `training`: `datasets`, `data` and `readers` (images to batches); `run_writer`, `checkpoint`,
`resume`, `run_log`, `samples` (the run folder); `style_statistics`, `checkpoint_score` (measurements); `preflight`,
`memory_estimate`, `device`, `cuda_graph` (the machine); `job` (a run from the command line); `polish` and `distill`
(further training). `model/authors_checkpoint` and `training/golden` read files of the authors' code, `metrics`
evaluates results, `common` is shared by all parts.
"""

import os as _os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later creates a device id and sends usage data, also on Linux and macOS, from a thread that can
# hang or crash the process at exit. It reads this variable once, when it is loaded.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a source checkout export/, runtime/ and tools/ are beside this folder, not in it. An installed dsmap does not need
# this; `python -m dsmap.tools...` in the root of a checkout that was not installed does.
_root = _os.path.dirname(_os.path.dirname(_os.path.realpath(__file__)))
if all(_os.path.isfile(_os.path.join(_root, *name)) for name in (("pyproject.toml",), ("runtime", "translator.py"))):
    __path__.append(_root)
