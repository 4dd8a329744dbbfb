"""Exports from Python: the example of the docs, requests that contradict themselves, bundles that are extended."""

import re
import shutil
from pathlib import Path

import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.export import EngineRequest, ExportRequest, UpdateRequest, update_bundle
from dsmap.export.named_styles import NamedStyle
from dsmap.export.verify import generated_images
from dsmap.runtime.bundle.bundle import Bundle

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("from_exported")
def test_the_example_of_the_docs_runs(checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(checkpoint)
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "export_model" in block)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    out = capsys.readouterr().out
    assert re.search(r"^checking against torch on \d+ real images \.\.\.$", out, re.MULTILINE)
    assert re.search(r"^my-model: \d+ images checked in \d+ s$", out, re.MULTILINE)
    manifest = Bundle.read(tmp_path / "my-model").manifest
    assert (manifest.name, manifest.licence) == ("my-model", "CC BY 4.0")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"checkpoint": Path("gen.pt")}, "gen.pt is a .pt file"),
        ({"domain_names": ("a", "b")}, "--domains names the domains"),
        ({"official_config": Path("c.yaml"), "best": True}, "--best does not go with --official"),
        ({"official_config": Path("c.yaml"), "margin": 8}, "--margin does not go with --official"),
        ({"without": ["norms"]}, "no rewrite named 'norms'"),
    ],
)
def test_contradictions_are_found_at_once(options, fact):
    with pytest.raises(InputError) as caught:
        ExportRequest(**{"checkpoint": Path("run"), "out": Path("bundle")} | options)
    assert fact in caught.value.fact


def test_a_request_to_add_nothing_is_refused(tiny_bundle):
    with pytest.raises(InputError, match="is a bundle already"):
        UpdateRequest(bundle=tiny_bundle)
    with pytest.raises(InputError, match="no engine called 'cuda'"):
        EngineRequest(kind="cuda")


def test_a_style_is_added_to_a_bundle(tiny_bundle, tmp_path):
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    write_rgb(tmp_path / "snow.png", generated_images(64, 1)[0])
    style, lines = NamedStyle("winter", "snow", tmp_path / "snow.png"), []
    result = update_bundle(UpdateRequest(bundle=folder, named_styles=[style]), say=lines.append)
    assert lines == ["named styles of winter: snow"]
    assert Bundle.read(folder).manifest.styles["winter"].named == result.named_styles["winter"]
    assert result.as_dict()["engines"] == []
