"""Reading a bundle: one clear error for each thing that can be wrong with it."""

import json
import shutil
from pathlib import Path

import pytest

from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import MANIFEST, Bundle
from dsmap.runtime.bundle.bundled import as_model, find_model


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def change(bundle: Path, *keys: str, to: object) -> None:
    tree = json.loads((bundle / MANIFEST).read_text())
    part = tree
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    (bundle / MANIFEST).write_text(json.dumps(tree))


def test_manifest_says_what_the_bundle_is(bundle: Path):
    manifest = Bundle.read(bundle).manifest
    assert manifest.format_version == 2
    assert manifest.name == "tiny"
    assert manifest.domains == ("summer", "winter")
    assert manifest.precision == "fp32"
    assert manifest.licence == "CC0"
    assert "summer" in manifest.card
    assert manifest.sizes.multiple_of == 8
    assert manifest.sizes.minimum == 16
    assert manifest.styles["winter"].mean == [-0.5, 0.75, 0.125]
    assert manifest.styles["winter"].pictures == 9
    assert len(manifest.components.files()) == 10
    listed = {f.path for f in (*manifest.components.files(), *manifest.extras)}
    assert {p.name for p in bundle.iterdir()} == listed | {MANIFEST}
    assert manifest.verification["pictures"] == 8
    assert manifest.verification["origin"] == "generated"


@pytest.mark.parametrize(
    ("keys", "value", "fact"),
    [
        (("format_version",), 3, "bundle format 3; this dsmap reads format 2"),
        (("format_version",), "1", "no format_version"),
        (("format_version",), True, "no format_version"),
        (("format_version",), 0, "bundle format 0; this dsmap reads format 2"),
        (("domains",), ["winter", "winter"], "both domains are called 'winter'"),
        (("styles", "winter", "mean"), [0.0, float("nan"), 0.0], "styles.winter.mean.1"),
        (("styles", "summer", "std"), [1.0, 1.0, float("inf")], "styles.summer.std.2"),
        (("components", "decoder", "winter", "sha256"), "0" * 64, "has changed since it was exported"),
        (("components", "decoder", "winter", "path"), "../decoder.onnx", "leaves the bundle's folder"),
        (("components", "decoder", "winter", "path"), "/etc/hostname", "leaves the bundle's folder"),
        (("components", "decoder", "winter", "path"), "..\\decoder.onnx", "leaves the bundle's folder"),
        (("components", "decoder", "winter", "path"), "gone.onnx", "names 'gone.onnx', which is not there"),
        (("components", "decoder"), {}, "no decoder for summer, winter"),
        (("components", "style_mlp"), {}, "no style_mlp for summer, winter"),
        (("components", "mapping"), {"summer": {"path": "x", "sha256": "", "bytes": 1}}, "no mapping for winter"),
        (("styles", "winter", "mean"), [1.0], "does not have 3 numbers"),
        (("sizes", "multiple_of"), 0, "sizes.multiple_of"),
        (("domains",), ["summer"], "domains"),
    ],
)
def test_each_fault_has_its_error(bundle: Path, keys: tuple[str, ...], value: object, fact: str):
    change(bundle, *keys, to=value)
    with pytest.raises(InputError) as caught:
        Bundle.read(bundle)
    assert fact in caught.value.fact
    assert caught.value.advice
    assert "\n" not in caught.value.fact


def test_format_1_is_refused_with_what_to_do(bundle: Path):
    tree = json.loads((bundle / MANIFEST).read_text())
    del tree["components"]["style_mlp"]  # its decoders took the style themselves
    tree["format_version"] = 1
    (bundle / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(InputError) as caught:
        Bundle.read(bundle)
    assert caught.value.fact == f"{bundle} has bundle format 1; this dsmap reads format 2"
    assert caught.value.advice == "Export the model again with dsmap-export."


def test_a_link_out_of_the_folder_is_refused(bundle: Path, tmp_path: Path):
    outside = tmp_path / "outside.onnx"
    (bundle / "decoder.winter.onnx").rename(outside)
    (bundle / "decoder.winter.onnx").symlink_to(outside)
    with pytest.raises(InputError, match="leaves the bundle's folder"):
        Bundle.read(bundle)


def test_one_flipped_bit_is_found(bundle: Path):
    path = bundle / "mapping.summer.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"mapping\.summer\.onnx has changed"):
        Bundle.read(bundle)


def test_not_json(bundle: Path):
    (bundle / MANIFEST).write_text('{"format_version": 1,')
    with pytest.raises(InputError, match="cannot read"):
        Bundle.read(bundle)


def test_folder_that_is_no_bundle(tmp_path: Path):
    with pytest.raises(InputError, match=f"has no {MANIFEST}"):
        Bundle.read(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Bundle.read(tmp_path / "gone")


def test_a_file_is_no_bundle(tmp_path: Path, monkeypatch):
    (tmp_path / "a.mp4").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "./a.mp4", tmp_path / "a.mp4"):
        with pytest.raises(InputError, match="is a file, not a bundle"):
            Bundle.read(find_model(name))


def test_unknown_fields_of_a_later_writer_are_passed_over(bundle: Path):
    change(bundle, "colour_profile", to="sRGB")
    Bundle.read(bundle)


def test_unknown_domain_lists_the_known_ones(bundle: Path):
    with pytest.raises(InputError) as caught:
        Bundle.read(bundle).source_of("autumn")
    assert "autumn" in caught.value.fact
    assert "summer" in caught.value.advice
    assert "winter" in caught.value.advice


def test_models_are_found_by_name_or_path(bundle: Path, tmp_path: Path):
    assert find_model(bundle) == bundle
    assert find_model(str(tmp_path / "gone")) == tmp_path / "gone"  # a path: Bundle.read says what is wrong with it
    assert (find_model("summer-winter") / MANIFEST).is_file()
    assert [as_model(Path(name)) for name in ("other", "a/summer-winter")] == ["other", "a/summer-winter"]
    assert find_model(as_model(Path("summer-winter"))) == Path("summer-winter")
    with pytest.raises(InputError) as caught:
        find_model("spring-autumn")
    assert "summer-winter" in caught.value.advice
