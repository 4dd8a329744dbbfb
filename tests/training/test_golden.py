"""The comparison with the authors' numbers: it passes on theirs, and tells every kind of difference."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from authors import official_generators, write_golden
from tiny import make_discriminators, make_model
from typer.testing import CliRunner

from dsmap.tools.golden import app
from dsmap.training.golden import compare_golden


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_golden(tmp_path_factory.mktemp("made"), make_model(), make_discriminators())


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "golden"))


@pytest.fixture
def munit(tmp_path):
    """Numbers of a network without a mapping, as the authors' code has them with status_d: false."""
    return write_golden(tmp_path / "munit", make_model(mapping=False, pad_type="zero"), make_discriminators())


def golden(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def change_scalars(folder, change):
    path = folder / "scalars.json"
    scalars = json.loads(path.read_text())
    change(scalars)
    path.write_text(json.dumps(scalars))


def change_tensors(folder, change):
    path = folder / "tensors.npz"
    with np.load(path) as arrays:
        tensors = dict(arrays)
    change(tensors)
    np.savez(path, **tensors)


@pytest.mark.parametrize("name", ["tiny", "tiny_zero_pad"])
def test_the_numbers_of_the_authors(shared, name):
    rows = compare_golden(shared / "golden" / name)
    assert [row for row in rows if not row.passed] == []
    scalars = json.loads((shared / "golden" / name / "scalars.json").read_text())
    assert len(rows) == 24 + sum(map(len, scalars.values()))  # every tensor but the inputs, and every number


@pytest.mark.parametrize(
    ("seed", "changed"),
    [
        (2, {"dim": 12, "pad_type": "replicate", "style_dim": 3, "n_res": 3, "mlp_dim": 20}),
        (2, {"dim": 6, "pad_type": "zero", "style_dim": 5, "mapping": False}),
        (5, {"dim": 10, "pad_type": "reflect", "style_dim": 16, "mlp_dim": 32}),
    ],
)
def test_rounding_alone_is_not_off(tmp_path, seed, changed):
    """Networks in which rounding swaps signs that gradients hang on, beyond the plain tolerance."""
    write_golden(tmp_path / "golden", make_model(seed, **changed), make_discriminators(seed + 1))
    assert [row for row in compare_golden(tmp_path / "golden") if not row.passed] == []


def test_a_folder_made_here_passes(folder):
    rows = compare_golden(folder)
    assert [row for row in rows if not row.passed] == []
    kinds = [row.kind for row in rows]
    assert (kinds.count("tensor"), kinds.count("loss")) == (24, 24)
    assert kinds.count("generator gradient") > 100
    assert kinds.count("discriminator gradient") == 2 * 3 * 5 * 2
    code, output = golden(folder)
    assert code == 0
    assert f"{len(rows)} of {len(rows)} within tolerance" in output
    assert "OFF" not in output


def test_the_command_as_it_is_run(folder):
    def run(path):
        command = [sys.executable, "-m", "dsmap.tools.golden", path, "--failures"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    change_scalars(folder, lambda s: s["losses"].update({"random.recon_s_b": 3.0}))
    wrong = run(folder)
    assert (wrong.returncode, wrong.stderr) == (1, "")
    assert [line.split()[:3] for line in wrong.stdout.splitlines()[1:-1]] == [["OFF", "loss", "random.recon_s_b"]]
    gone = run(folder / "gone")
    assert (gone.returncode, gone.stdout) == (2, "")
    assert gone.stderr.startswith(f"error: no folder {folder / 'gone'}\n")


OFF = {
    "tensors": ["b_to_a_exemplar", "style_a", "dis_b_scale2"],
    "losses": ["exemplar.cycrecon_x_a", "gen_total", "contextual_h0.1"],
    "gen_grad_norms": [
        "gen_a.domain_mapping.layer1.0.conv.weight",
        "gen_b.enc_content.share_layer.0.model.1.conv.weight",
    ],
    "dis_grad_norms": ["dis_a.cnns.2.4.bias"],
}


@pytest.mark.parametrize(
    "wrong", [{"tensors": ["style_a"]}, {"losses": ["gen_total"]}, OFF], ids=["tensor", "loss", "several"]
)
def test_numbers_that_are_off_are_named_and_no_others(folder, wrong):
    def change(tensors):
        for name in wrong.get("tensors", ()):
            tensors[name][0, 0] += 0.01 * max(1, abs(tensors[name]).max())

    def change_numbers(scalars):
        for part in wrong.keys() - {"tensors"}:
            scalars[part] |= {name: scalars[part][name] * 1.02 + 0.002 for name in wrong[part]}

    change_tensors(folder, change)
    change_scalars(folder, change_numbers)
    code, output = golden(folder, "--failures")
    off = [line for line in output.splitlines() if line.startswith("OFF")]
    names = [name for part in wrong.values() for name in part]
    assert code == 1
    assert len(off) == len(names)
    assert all(sum(name in line for line in off) == 1 for name in names)
    assert f", {len(names)} OFF" in output


def test_names_that_are_not_known_are_off(folder):
    change_tensors(folder, lambda t: t.update({"a_to_c": t["x_a"]}))
    change_tensors(folder, lambda t: t.update({"pre_a": t["pre_a"][:, :-1]}))  # nothing of that shape either

    def change(scalars):
        scalars["losses"]["exemplar.recon_y_a"] = 1.0
        scalars["gen_grad_norms"]["gen_a.enc_style.model.9.weight"] = 0.0
        scalars["dis_grad_norms"]["dis_a.domain_mapping.weight"] = 0.0
        scalars["gen_grad_norms"]["gen_a.domain_mapping.layer3.0.conv.weight"] = 0.0

    change_scalars(folder, change)
    code, output = golden(folder, "--failures")
    names = {line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("OFF")}
    assert code == 1
    assert len(names) == 6
    for name in ("a_to_c", "pre_a", "recon_y_a", "gen_a.enc_style.model.9", "dis_a.domain_mapping", "layer3.0"):
        assert any(name in line for line in names), name


def test_a_number_that_is_not_one_is_off(folder):
    change_scalars(folder, lambda s: s["losses"].update({"gen_total": float("nan")}))
    code, output = golden(folder, "--failures")
    assert code == 1
    assert "gen_total" in output


def test_other_weights_are_off(folder):
    torch.save(official_generators(make_model(seed=5)), folder / "gen_00000007.pt")
    code, output = golden(folder, "--failures")
    assert code == 1
    assert "a_to_b_exemplar" in output


@pytest.mark.parametrize("name", ["config.yaml", "gen_00000007.pt", "dis_00000007.pt", "tensors.npz", "scalars.json"])
def test_missing_and_damaged_files(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2]):
        if name == "config.yaml" and damaged:
            continue  # half of it is still YAML
        (folder / name).write_bytes(damaged)
        code, output = golden(folder)
        assert code == 2, output
        assert output.startswith("error: ")
        assert "unexpected" not in output
    (folder / name).unlink()
    code, output = golden(folder)
    assert code == 2
    assert f"{folder} has 0 files " in output


def test_numbers_that_are_left_out(folder):
    change_tensors(folder, lambda t: t.pop("gen_style_b"))
    change_scalars(folder, lambda s: s.pop("dis_grad_norms"))
    code, output = golden(folder)
    assert code == 2
    assert f"{folder} lacks gen_style_b, dis_grad_norms" in output


def test_two_checkpoints_in_a_folder(folder):
    shutil.copy(folder / "gen_00000007.pt", folder / "gen_00000008.pt")
    code, output = golden(folder)
    assert code == 2
    assert "has 2 files gen_*.pt, expected one" in output


# Without a mapping (status_d: false).


def test_munit(munit):
    rows = compare_golden(munit)
    assert [row for row in rows if not row.passed] == []
    assert not any("domain_mapping" in row.name for row in rows)
    change_tensors(munit, lambda t: [t.pop(name) for name in ("a_mapped_to_b", "b_mapped_to_a")])
    assert golden(munit)[0] == 0
    change_tensors(munit, lambda t: t.update({"a_to_b_random": t["a_to_b_random"] + 0.1}))
    assert golden(munit)[0] == 1


def test_munit_with_an_unused_mapping(munit):
    states = torch.load(munit / "gen_00000007.pt", weights_only=True)
    mapping = official_generators(make_model(9))
    names = [name for name in mapping["a"] if name.startswith("domain_mapping.")]
    assert len(names) == 8
    for slot in ("a", "b"):
        states[slot] |= {name: mapping[slot][name] for name in names}
    torch.save(states, munit / "gen_00000007.pt")
    zeros = {f"gen_{slot}.{name}": 0.0 for slot in ("a", "b") for name in names}
    change_scalars(munit, lambda s: s["gen_grad_norms"].update(zeros))
    rows = compare_golden(munit)
    assert [row for row in rows if not row.passed] == []
    assert sum("domain_mapping" in row.name for row in rows) == 16
    change_scalars(munit, lambda s: s["gen_grad_norms"].update({f"gen_a.{names[0]}": 0.5}))
    code, output = golden(munit, "--failures")
    assert code == 1
    assert names[0] in output
