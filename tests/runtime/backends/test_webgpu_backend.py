"""The `webgpu` backend as it is, with the real plugin, on Chromium's renderer for Vulkan in software.

ONNX Runtime offers a plugin only GPUs that it has found in /sys/class/drm: the process sees one there, in a mount
namespace of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/lib/chromium")
SEES_A_GPU = """
mount -t tmpfs none /sys/class && mkdir -p /sys/class/drm/card0/device && cd /sys/class/drm/card0/device &&
echo 0x1002 > vendor && echo 0x744c > device && echo 0x030000 > class && cd / && exec "$@"
"""
TRANSLATE = """
import json, sys
import numpy as np
from dsmap.runtime import Translator
from dsmap.runtime.doctor.other_gpus import check_other_gpus
frame_rgb = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
found = {}
for backend in ("webgpu", "cpu"):
    translator = Translator.load(sys.argv[1], domain="winter", backend=backend, precision="fp32")
    found[backend] = translator(frame_rgb).astype(int)
    if backend == "webgpu":
        description = translator.backend_description
difference = int(np.abs(found["webgpu"] - found["cpu"]).max())
print(json.dumps([description, difference, check_other_gpus().as_dict()]))
"""


@pytest.fixture
def in_sight_of_a_gpu():
    """Begins a command line that runs the rest of it where a GPU is seen."""
    pytest.importorskip("onnxruntime_ep_webgpu")
    if not (CHROMIUM / "libvk_swiftshader.so").is_file() or not (CHROMIUM / "libvulkan.so.1").is_file():
        pytest.skip("no Chromium with a renderer for Vulkan")
    namespace = ["unshare", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user")
    return [*namespace, "sh", "-c", SEES_A_GPU, "sh"]


def test_frames_are_those_of_the_cpu_and_all_nodes_are_on_the_device(in_sight_of_a_gpu, tiny_bundle, tmp_path):
    variables = {
        "VK_ICD_FILENAMES": str(CHROMIUM / "vk_swiftshader_icd.json"),
        "LD_LIBRARY_PATH": str(CHROMIUM),
        **{name: str(tmp_path) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")},
    }
    command = [*in_sight_of_a_gpu, sys.executable, "-c", TRANSLATE, str(tiny_bundle)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    description, difference, finding = json.loads(done.stdout)
    assert description.endswith(" with WebGPU on a GPU, fp32, untested on hardware")  # and no nodes on the CPU
    assert difference <= 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # the plugin has telemetry of its own
    assert finding["state"] == "ok"
    assert finding["fact"].startswith("webgpu: WebGPU on a GPU; untested")
