"""Folders of results: which images are results, of which content, and what of several systems is comparable."""

from pathlib import Path

import pytest

from dsmap.errors import InputError
from dsmap.metrics.result_folders import ResultFolder, ResultImage, comparable, find_images, read_results, scan_images

NAMES = ["lake", "lake-2", "7", "8", "snowy lake", "a.b", "caf\u00e9", "cafe"]


@pytest.mark.parametrize(
    ("path", "content", "style"),
    [
        ("lake.jpg", "lake", ""),
        ("lake_snow.png", "lake", "snow"),
        ("lake-2.png", "lake-2", ""),
        ("lake-2-3.png", "lake-2", "3"),
        ("lake-3.png", "lake", "3"),
        ("lakes.png", None, "lakes"),
        ("a.b.png", "a.b", ""),
        ("out/lake_x.png", "lake", "out/x"),
        ("lake/3.png", "lake", "3"),
        ("winter/lake/3.png", "lake", "3"),
        ("lake/7.png", "7", "lake"),
        ("fake_lake.png", "lake", "fake"),
        ("fake_snowy lake.png", "snowy lake", "fake"),
        ("style3_8.png", "8", "style3"),
        ("out_7_8.png", None, "out_7_8"),
        ("7_8.png", "7", "8"),
        ("7_out_8.png", "7", "out_8"),
        ("cafe\u0301_1.png", "caf\u00e9", "1"),  # as archives from a Mac spell it
        ("cafe\u0327.png", None, "caf\u0229"),  # a letter of its own, not "cafe"
    ],
)
def test_the_content_of_a_result(tmp_path, path, content, style):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    found = read_results("ours", tmp_path, [Path(f"{name}.png") for name in NAMES])
    (result,) = found.results
    assert (None if result.content is None else NAMES[result.content], result.style) == (content, style)
    assert found.contradictory == (path == "lake/7.png")
    assert found.doubtful == path.startswith("7_")
    notes = comparable([found], len(NAMES))[1] if result.content is not None else []
    assert any("as in CONTENT_STYLE" in note for note in notes) == bool(found.doubtful)


def test_which_images_are_results(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "sub/c.webp", ".cache/d.png", "e_fake.png"):
        (tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "real" / name).touch()
    (tmp_path / "real" / "round").symlink_to(tmp_path / "real")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "to").symlink_to(tmp_path / "real" / "sub")
    found = find_images(tmp_path / "real", "the folder")
    assert [str(path.relative_to(tmp_path / "real")) for path in found] == [
        "a.JPG",
        "b.png",
        "e_fake.png",
        "sub/c.webp",
    ]
    assert [path.name for path in find_images(tmp_path / "real", "the folder", "*_fake.*")] == ["e_fake.png"]
    assert [path.name for path in find_images(tmp_path / "link", "the folder")] == ["c.webp"]
    told = []
    scan_images(tmp_path / "real", "the folder", told)
    assert told == [f"2 files left out of {tmp_path / 'real'}: 1 hidden file, 1 .txt"]
    with pytest.raises(InputError, match=r"match \*_x\.png"):
        find_images(tmp_path / "real", "the folder", "*_x.png")
    with pytest.raises(InputError, match=r"the folder .*b\.png is a file"):
        find_images(tmp_path / "real" / "b.png", "the folder")
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "none", "the folder")


def system(name: str, contents: str) -> ResultFolder:
    """Results of contents by their numbers; ? is one of none."""
    results = [
        ResultImage(path=Path(f"{name}{i}.png"), content=None if c == "?" else int(c)) for i, c in enumerate(contents)
    ]
    return ResultFolder(name=name, results=tuple(results))


def contents_of(folders) -> list[str]:
    return ["".join("?" if r.content is None else str(r.content) for r in folder.results) for folder in folders]


@pytest.mark.parametrize(
    ("given", "count", "kept", "notes"),
    [
        (["0123", "0123"], 4, ["0123", "0123"], []),
        (["0123?", "123"], 4, ["123", "123"], ["1 of 5 results belong to no", "3 of 4 contents"]),
        (["001122", "000112222"], 3, ["001122", "001122"], ["6 results are compared, as many of each content"]),
        (["????", "??"], 0, ["??", "??"], ["2 of 4 results are compared"]),
        (["0123", "????", "1230"], 4, ["0123", "????", "1230"], ["no result has the name of a content"]),
        (["0123", "??"], 4, ["02", "??"], ["2 of these contents are compared", "no result has the name"]),
    ],
)
def test_what_is_comparable(given, count, kept, notes):
    folders, told = comparable([system(f"s{i}", contents) for i, contents in enumerate(given)], count)
    assert list(map(sorted, contents_of(folders))) == list(map(sorted, kept))
    assert [folder.name for folder in folders] == [f"s{i}" for i in range(len(given))]
    assert len(told) == len(notes)
    for note, expected in zip(told, notes, strict=True):
        assert expected in note


def test_nothing_comparable():
    with pytest.raises(InputError, match="no result has the name of a content; the first result is s00"):
        comparable([system("s0", "??")], 3)
    with pytest.raises(InputError, match="no content in common"):
        comparable([system("s0", "01"), system("s1", "23")], 4)
