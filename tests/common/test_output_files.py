"""The gate for every path that a command writes."""

import os

import pytest

from dsmap.common.output_files import check_outputs
from dsmap.errors import InputError


def test_what_is_new_may_be_written(tmp_path):
    check_outputs({"--report": tmp_path / "r.json", "--page": None}, [(tmp_path, "the input")], overwrite=False)


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "dots"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_no_output_is_an_input_by_whatever_name(tmp_path, way, overwrite):
    source = tmp_path / "in.mp4"
    source.write_text("precious")
    path = tmp_path / "r.json"
    if way == "link":
        path.symlink_to(source)
    elif way == "hard link":
        os.link(source, path)
    else:
        path = source if way == "itself" else tmp_path / "." / ".." / tmp_path.name / "in.mp4"
    with pytest.raises(InputError, match=r"--report .* is the input itself"):
        check_outputs({"--report": path}, [(source, "the input itself")], overwrite=overwrite)


def test_two_outputs_never_share_a_name(tmp_path):
    (tmp_path / "there").symlink_to(tmp_path)
    paths = {"--report": tmp_path / "r", "--page": tmp_path / "there" / "r"}
    with pytest.raises(InputError, match="--report and --page both name"):
        check_outputs(paths, overwrite=True)


def test_what_exists_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("earlier")
    with pytest.raises(InputError, match="exists already"):
        check_outputs({"--report": path}, overwrite=False)
    check_outputs({"--report": path}, overwrite=True)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"):
        check_outputs({"--report": dangling}, overwrite=False)


def test_folders_missing_folders_and_devices(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_outputs({"--report": tmp_path}, overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        check_outputs({"--report": tmp_path / "missing" / "r.json"}, overwrite=True)
    check_outputs({"--report": type(tmp_path)("/dev/null")}, overwrite=False)


@pytest.mark.parametrize("way", ["in it", "hard link", "link in it", "link to its folder", "folder round and round"])
def test_nothing_of_an_input_folder_is_replaced(tmp_path, way):
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    path = folder / "deep" / "1.png"
    path.write_text("precious")
    if way == "hard link":
        os.link(path, tmp_path / "r.json")
        path = tmp_path / "r.json"
    elif way != "in it":
        path = path.rename(elsewhere / "1.png")
        if way == "link in it":
            (folder / "deep" / "1.png").symlink_to(path)
        else:
            (folder / "deep" / "more").symlink_to(elsewhere)
            (elsewhere / "round").symlink_to(folder)
    with pytest.raises(InputError, match="lies in the images"):
        check_outputs({"--report": path}, [(folder, "the images")], overwrite=True)
    check_outputs({"--report": folder / "deep" / "new.json"}, [(folder, "the images")], overwrite=True)
    (tmp_path / "earlier.json").touch()
    check_outputs({"--report": tmp_path / "earlier.json"}, [(folder, "the images")], overwrite=True)
    with pytest.raises(InputError, match="lies in the model"):
        check_outputs({"--report": folder / "new.json"}, closed=[(folder, "the model")], overwrite=True)


def test_a_name_too_long_is_told(tmp_path):
    with pytest.raises(InputError, match="File name too long"):
        check_outputs({"--report": tmp_path / ("x" * 300)}, overwrite=False)
