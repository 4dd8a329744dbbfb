"""Random styles of the page's JavaScript: the same as Python's."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.bundle.manifest import Style, read_manifest
from dsmap.runtime.styles.random_styles import random_code

LIB = Path(__file__).parents[3] / "runtime" / "web" / "page" / "lib"
SEEDS = [*range(200), 2**31 - 1, 2**53 - 1]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_seeds_are_pythons(tmp_path):
    for name in ("random-style.js", "errors.js"):
        shutil.copy(LIB / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    winter = read_manifest(find_model("summer-winter")).styles["winter"]
    styles = [winter, Style(mean=[0.0] * 5, std=[1.0, 2.0, 3.0, 4.0, 0.0], pictures=0)]
    code = "import { randomCode } from './random-style.js'\n"
    code += f"const styles = {json.dumps([style.model_dump() for style in styles])}\n"
    code += "let wrong\ntry { randomCode(styles[0], -1) } catch (error) { wrong = error }\n"
    code += "if (wrong?.name !== 'DsmapError' || wrong.code !== 'input') throw wrong\n"
    code += f"console.log(JSON.stringify(styles.map(s => {SEEDS}.map(seed => [...randomCode(s, seed)]))))\n"
    (tmp_path / "run.mjs").write_text(code)
    done = subprocess.run(["node", tmp_path / "run.mjs"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for style, found in zip(styles, json.loads(done.stdout), strict=True):
        expected = [random_code(style, seed) for seed in SEEDS]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
