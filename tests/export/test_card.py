"""What makes a bundle a good citizen of the Hub: its card, its pictures, and the facts inside of its files."""

import json
import shutil

import numpy as np
import pytest
import yaml
from commands import call

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import InputError
from dsmap.export.bundle_folder import check_bundle_folder
from dsmap.export.documents import body_and_head, write_documents
from dsmap.export.graph_metadata import read_stamp
from dsmap.export.samples import SampleImage, parse_samples
from dsmap.export.verify import generated_images
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.card import check_card, licence_keys, split_card
from dsmap.runtime.bundle.manifest import read_manifest, write_manifest
from dsmap.tools import export as export_command


@pytest.fixture(scope="module")
def with_card(tiny_model, tiny_bundle, made_once):
    """A bundle with everything: a card with a head of its maker's, data, a licence and two pictures."""
    card = "---\nlanguage: en\ntags: [snow]\n---\n# Meadows\n\nTurns meadows white, and white meadows green.\n"

    def make(folder):
        write_rgb(folder / "meadow.png", generated_images(200, 1)[0][:130])
        bundle = folder / "bundle"
        shutil.copytree(tiny_bundle, bundle)
        body, head = body_and_head(card)
        names = ["someone/meadows", "summer2winter_yosemite"]
        update = {"card": body, "licence": "CC BY 4.0", "datasets": names}
        manifest = read_manifest(bundle).model_copy(update=update)
        samples = [SampleImage("summer", folder / "meadow.png"), SampleImage("winter", folder / "meadow.png")]
        write_manifest(bundle, write_documents(bundle, manifest, tiny_model, samples, head))

    return made_once("with-card", make) / "bundle"


@pytest.fixture
def copied(with_card, tmp_path):
    shutil.copytree(with_card, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_head_is_what_the_hub_reads(with_card):
    text = (with_card / "README.md").read_text()
    head, body = split_card(text)
    assert head == yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "dsmap"
    assert head["pipeline_tag"] == "image-to-image"
    assert head["license"] == "cc-by-4.0"
    assert head["datasets"] == ["someone/meadows", "summer2winter_yosemite"]
    assert head["metrics"] == ["psnr"]
    assert (head["language"], head["tags"]) == ("en", ["snow"])  # the maker's own word wins
    assert head["widget"][0] == {
        "src": "samples/1.jpg", "prompt": "summer to winter", "output": {"url": "samples/1-translated.jpg"}
    }  # fmt: skip
    assert body.startswith("# Meadows\n")
    assert "dsmap video INPUT --model hf:OWNER/NAME --domain winter" in body
    assert "![to winter](samples/1-translated.jpg)" in body
    check_card(text)
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert huggingface_hub.ModelCard(text).data.to_dict()["license"] == "cc-by-4.0"
    assert read_manifest(with_card).card.startswith("# Meadows")


def test_samples_are_what_the_model_makes_of_them(with_card):
    picture, shown = read_rgb(with_card / "samples" / "1.jpg"), read_rgb(with_card / "samples" / "1-translated.jpg")
    assert picture.shape == shown.shape == (64, 96, 3)  # of the size it was trained at, in steps of 8
    with Translator.load(with_card, domain="winter", backend="cpu", threads=1) as translator:
        made = translator(picture)
    assert np.corrcoef(made.ravel(), shown.ravel())[0, 1] > 0.8  # random weights draw noise, which JPEG blurs


def test_an_export_has_all_of_it(exported):
    """Written by the command: see `exported`."""
    Bundle.read(exported.folder)  # the hashes are those of the stamped files
    for precision, name in (("fp32", "decoder.winter.onnx"), ("int8", "decoder.winter.int8.onnx")):
        stamp = read_stamp(exported.folder / name)
        assert stamp.pop("version")
        assert stamp == {
            "model": "winter-model", "part": "decoder", "domain": "winter", "precision": precision, "licence": "CC0"
        }  # fmt: skip
    text = (exported.folder / "README.md").read_text()
    check_card(text)
    head, body = split_card(text)
    assert head["license"] == "cc0-1.0"
    assert head["datasets"] == ["some/data"]
    assert head["tags"][-2:] == ["summer", "winter"]
    assert "| int8 | " in body
    files = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    manifest = read_manifest(exported.folder)
    listed = {file.path for file in (*manifest.files(), *manifest.extras)} | {"bundle.json"}
    assert files == listed >= {"README.md", "samples/1.jpg", "samples/1-translated.jpg"}


def test_checkpoints_say_what_they_are(checkpoint):
    from safetensors import safe_open

    path = next((checkpoint / "checkpoints").iterdir()) / "ema.safetensors"
    with safe_open(path, "np") as file:
        told = file.metadata()
    assert told["library"] == "dsmap"
    assert told["weights"] == "ema"
    assert json.loads(told["domains"]) == ["summer", "winter"]


def test_an_edited_card_is_not_replaced(copied):
    check_bundle_folder(copied, overwrite=True)
    with (copied / "README.md").open("a") as file:
        file.write("\nWritten by hand.\n")
    with pytest.raises(InputError, match=r"holds README\.md, which is not part of the bundle and would be lost"):
        check_bundle_folder(copied, overwrite=True)
    Bundle.read(copied)  # it is a bundle all the same
    (copied / "LICENSE").write_text("mine\n")
    code, _, err = call(export_command, copied, "--licence", "mit")
    assert code == 2
    assert "README.md was written by hand" in err
    (copied / "README.md").unlink()
    assert call(export_command, copied, "--licence", "mit")[0] == 0
    assert (copied / "LICENSE").read_text() == "mine\n"


def test_pictures_of_the_users_own_are_not_replaced(copied):
    (copied / "samples" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds samples/mine\.jpg"):
        check_bundle_folder(copied, overwrite=True)


def test_a_bundle_from_before_gets_licence_and_data(tiny_bundle, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(tiny_bundle, old)
    tree = json.loads((old / "bundle.json").read_text())
    (old / "README.md").unlink()
    del tree["extras"], tree["datasets"]  # as before there were cards
    tree["of a later version"] = 1
    (old / "bundle.json").write_text(json.dumps(tree))
    before = Bundle.read(old)
    code, out, err = call(export_command, old, "--licence", "mit", "--dataset", "some/data")
    assert code == 0, err
    assert "README.md: written, licence mit" in out
    after = Bundle.read(old)
    assert after.manifest.licence == "mit"
    assert "Licence of the weights: mit." in (old / "README.md").read_text()
    assert "CC0" not in (old / "README.md").read_text()
    assert after.fingerprint != before.fingerprint  # the graphs say it too
    assert read_stamp(old / "mapping.summer.onnx")["licence"] == "mit"
    assert json.loads((old / "bundle.json").read_text())["of a later version"] == 1
    check_card((old / "README.md").read_text())
    with Translator.load(old, domain="winter", backend="cpu", threads=1) as translator:
        assert translator(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)


def test_data_alone_leaves_the_graphs(copied):
    before = Bundle.read(copied).fingerprint
    assert call(export_command, copied, "--dataset", "other/data")[0] == 0
    assert Bundle.read(copied).fingerprint == before
    head, body = split_card((copied / "README.md").read_text())
    assert head["datasets"] == ["other/data"]
    assert len(head["widget"]) == 2  # the pictures stay
    assert "samples/2-translated.jpg" in body


@pytest.mark.parametrize(
    ("licence", "keys"),
    [
        ("CC0", {"license": "cc0-1.0"}),
        ("Apache 2.0", {"license": "apache-2.0"}),
        ("mit", {"license": "mit"}),
        ("research use, see the card",
         {"license": "other", "license_name": "research-use-see-the-card", "license_link": "README.md"}),
        ("not stated", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_licences_by_their_names_on_the_hub(licence, keys):
    assert licence_keys(licence) == keys


BODY = "# A model\n\nIt turns pictures of one kind into another kind.\n"


@pytest.mark.parametrize(
    ("card", "fact"),
    [
        (BODY, "states no licence, and names no data"),
        (f"---\nlicense: unknown\n---\n{BODY}", "states no licence"),
        (f"---\nlicense: [mit]\n---\n{BODY}", "states no licence"),
        (f"---\nlicense: mit\n---\n{BODY}", "names no data"),
        (f"---\nlicense: mit\ndatasets: ['']\n---\n{BODY}", "names no data"),
        (f"---\nlicense: other\ndatasets: [a/b]\n---\n{BODY}", "without a license_name"),
        ("---\nlicense: mit\ndatasets: [a/b]\n---\n# x\n", "says nothing of the model"),
        (f"---\nlicense: 'mit\n---\n{BODY}", "is not YAML"),
        (f"---\n- mit\n---\n{BODY}", "has no keys"),
        ("---\nlicense: mit\n", "has no end"),
    ],
)
def test_cards_that_must_not_be_published(card, fact):
    with pytest.raises(InputError, match=fact):
        check_card(card)
    check_card(f"---\r\nlicense: mit\r\ndatasets: a/b\r\n---\r\n{BODY}")


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(InputError, match="is not DOMAIN=IMAGE"):
        parse_samples(["meadow.jpg"])
    with pytest.raises(InputError, match="--sample summer: "):
        parse_samples([f"summer={tmp_path / 'none.jpg'}"])
    assert call(export_command, tmp_path, "-o", tmp_path / "b", "--dataset", "two words")[0] == 2
