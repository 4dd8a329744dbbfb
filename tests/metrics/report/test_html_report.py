"""The report of an evaluation: its table, its numbers for JSON, and its page, which must stand alone."""

import base64
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from dsmap.common.reports import write_report
from dsmap.errors import DsmapError
from dsmap.metrics.report.html import page, write_page
from dsmap.metrics.report.table import best, numbers, overlaps, table
from dsmap.metrics.types import Grid, Interval, Metric, MetricValue, Report, System

DISTANCE = Metric(key="distance", title="kernel distance", better="lower", definition="Times 1000.", digits=1)
EDGES = Metric(key="edges", title="edge similarity", better="higher", definition="Correlation.")
DRIFT = Metric(key="drift", title="drift", better="neither", definition="In grey levels.", digits=2)
HOSTILE = "<script>alert(1)</script>\"'&\udcff\x00\x1b[31m\u202e\n.jpg"
SHOWN = "<script>alert(1)</script>\"'&\\udcff\\x00\\x1b[31m\\u202e .jpg"
VOID = {"meta", "img", "line", "rect", "circle"}


def measured(metric: Metric, value: float, low: float | None = None, high: float | None = None) -> MetricValue:
    interval = None if low is None or high is None else Interval(low, high)
    return MetricValue(metric=metric, value=value, interval=interval, count=17)


GOOD = System(name="good", measured=(measured(DISTANCE, 41.23, 36.04, 46.46), measured(EDGES, 0.7)))
BAD = System(name="bad", measured=(measured(DISTANCE, 63.87, 57.1, 70.8), measured(DRIFT, -3.25)), notes=("Half.",))
INPUT = System(name="untranslated", measured=(measured(DISTANCE, 7.0),), baseline=True)
REPORT = Report(title="Two systems", facts={"Data": "testA"}, systems=(GOOD, INPUT, BAD), notes=("No FID.",))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


class Page(HTMLParser):
    """The page read again; fails where its tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for own, attribute, value in self.attributes if (own, attribute) == (tag, name)]


def cells(text: str, row: str) -> str:
    """The page's table row that has `row` as its label."""
    return next(part for part in text.split("<tr") if re.search(rf'scope="row">{row}<', part))


def test_the_page_stands_alone():
    grid = Grid(title="g", rows=("a",), columns=("b",), cells=((image(40, 30),),))
    text = page(replace(REPORT, grids=(grid,)))
    read = Page(text)
    assert {tag for tag, *_ in read.attributes} & {"script", "link", "iframe", "object"} == set()
    fetched = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    references = [value for _, name, value in read.attributes if name in fetched]
    assert len(references) == 4  # three links of the contents, one image
    places = {value for _, name, value in read.attributes if name == "id"}
    assert all(value.startswith("data:image/jpeg;base64,") or value[1:] in places for value in references)
    assert not re.search(r"url\(|@import|//", text.replace(references[-1], ""))
    assert not any(name.startswith("on") for _, name, _ in read.attributes)


def test_names_are_text_whatever_they_hold(tmp_path):
    metric = Metric(key=HOSTILE, title=HOSTILE, better="lower", definition=HOSTILE)
    systems = tuple(System(name=HOSTILE, measured=(measured(metric, n, 0, 3),), notes=(HOSTILE,)) for n in (1, 2))
    cell = image(8, 8)
    grid = Grid(
        title=HOSTILE, rows=(HOSTILE,), columns=(HOSTILE,), cells=((cell,),), captions=((HOSTILE,),), text=HOSTILE
    )
    report = Report(title=HOSTILE, facts={HOSTILE: HOSTILE}, systems=systems, notes=(HOSTILE,), grids=(grid,))
    write_page(tmp_path / "a.html", report)
    read = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, *_ in read.attributes}
    assert sum(text == SHOWN for text in read.texts) >= 14
    assert read.values("img", "alt") == [f"{SHOWN}, {SHOWN}"]
    assert "alert" in table(report)
    assert table(report).replace("\n", "").isprintable()


def test_every_number_is_shown():
    text, lines = page(REPORT), table(REPORT)
    for shown in ("41.2", "[36.0, 46.5]", "63.9", "[57.1, 70.8]", "0.700", "-3.25", "7.0"):
        assert f">{shown}<" in text
        assert shown in lines
    for said in ("No FID.", "Half.", "kernel distance", "Times 1000.", "testA", "n&nbsp;=&nbsp;17", "Two systems"):
        assert said in text
    assert "good: 41.2 [36.0, 46.5]" in Page(text).values("svg", "aria-label")


def test_what_was_not_measured_is_a_dash():
    assert cells(page(REPORT), "bad").count("<td>-</td>") == 1
    assert cells(page(REPORT), "untranslated").count("<td>-</td>") == 2
    row = next(line for line in table(REPORT).splitlines() if line.startswith("untranslated"))
    assert row.split() == ["untranslated", "(baseline)", "7.0", "-", "-"]


def test_the_notes_of_a_system_of_which_nothing_was_measured():
    report = replace(REPORT, systems=(replace(BAD, measured=()),))
    for text in (page(report), table(report)):
        assert "Nothing was measured." in text
        assert "bad: Half." in text


def test_the_best_system_is_marked_and_a_baseline_never():
    text = page(REPORT)
    assert "<b>41.2</b><" in cells(text, "good")
    assert text.count("<b>") == 1  # the only metric of two systems
    few = page(replace(REPORT, verdict="Too few images to say: 4 and 9 of the reference."))
    assert "<b>" not in few
    assert "Bold:" not in few
    assert "†" not in text
    near = System(name="near", measured=(measured(DISTANCE, 44.0, 40.0, 48.0),))
    assert "<b>41.2</b> †" in cells(page(replace(REPORT, systems=(GOOD, INPUT, near))), "good")


@pytest.mark.parametrize(
    ("values", "better", "places"),
    [
        ((1.0, 2.0), "lower", {0}),
        ((1.0, 2.0), "higher", {1}),
        ((1.0, 2.0), "neither", set()),
        ((1.01, 1.04, 3.0), "lower", {0, 1}),  # they read alike
        ((1.0, 1.0), "lower", set()),
        ((float("nan"), 1.0, 2.0), "lower", {1}),
        ((float("-inf"), 1.0), "lower", set()),
    ],
)
def test_best(values, better, places):
    metric = Metric(key="m", title="m", better=better, definition="", digits=1)
    systems = [System(name="s", measured=(measured(metric, value),)) for value in values]
    assert best(metric, systems) == places
    assert not overlaps(metric, systems, places)  # without intervals


def test_frechet_distances_of_unequal_numbers_have_no_best():
    metric = Metric(key="frechet_distance/inception", title="FID", better="lower", definition="")
    few, many = (replace(measured(metric, v), count=n) for v, n in ((30.0, 100), (20.0, 1000)))
    systems = [System(name="s", measured=(one,)) for one in (few, many)]
    assert best(metric, systems) == set()
    assert best(metric, [*systems[1:], System(name="t", measured=(replace(many, value=25.0),))]) == {0}


def test_numbers_that_are_not_finite(tmp_path):
    nan, inf = float("nan"), float("inf")
    odd = System(name="odd", measured=(measured(DISTANCE, nan, nan, inf), measured(EDGES, np.float32(0.5), 0.4, inf)))
    raw = {"scores": [1.0, nan, (np.float32(2.5), -inf)], "array": np.array([1.0, nan]), "none": None, "yes": True}
    report = Report(title="t", facts={}, systems=(GOOD, odd), raw=raw)
    write_report(tmp_path / "r.json", numbers(report))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in JSON")

    read = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    found = {"value": None, "low": None, "high": None, "count": 17, "better": "lower"}
    assert read["systems"][1]["metrics"]["distance"] == found
    assert read["systems"][1]["metrics"]["edges"]["value"] == 0.5
    assert read["raw"] == {"scores": [1.0, None, [2.5, None]], "array": [1.0, None], "none": None, "yes": True}
    assert ">nan<" in cells(page(report), "odd")
    assert not re.search(r'="[^"]*(nan|inf)%', page(report))
    assert "nan [nan, inf]" in table(report)
    nothing = replace(report, systems=(System(name="n", measured=(measured(DISTANCE, nan),)),))
    assert "<circle" not in page(nothing)


def test_numbers_for_json():
    read = json.loads(json.dumps(numbers(REPORT)))
    assert list(read) == ["dsmap", "title", "verdict", "facts", "notes", "systems", "definitions", "raw"]
    assert [(system["name"], system["baseline"]) for system in read["systems"]] == [
        ("good", False),
        ("untranslated", True),
        ("bad", False),
    ]
    whole = {"value": 41.23, "low": 36.04, "high": 46.46, "count": 17, "better": "lower"}
    assert read["systems"][0]["metrics"]["distance"] == whole
    assert read["systems"][2]["metrics"]["drift"] == whole | {
        "value": -3.25,
        "low": None,
        "high": None,
        "better": "neither",
    }
    assert read["definitions"]["edges"] == {
        "title": "edge similarity",
        "better": "higher",
        "definition": "Correlation.",
    }


@pytest.mark.parametrize(("systems", "metrics"), list(itertools.product((0, 1, 12), (0, 1, 9))))
def test_any_number_of_systems_and_metrics(systems, metrics):
    kinds = [replace(EDGES, key=f"m{number}", title=f"metric {number}") for number in range(metrics)]
    own = [
        tuple(measured(kind, row + column / 10, 0, 20) for column, kind in enumerate(kinds)) for row in range(systems)
    ]
    report = replace(REPORT, systems=tuple(System(name=f"s{row}", measured=one) for row, one in enumerate(own)))
    text, lines = page(report), table(report)
    Page(text)
    assert max(map(len, lines.splitlines())) <= 100
    if not systems * metrics:
        assert "Nothing was measured." in lines
        assert "Nothing was measured." in text
        return
    for row, column in itertools.product(range(systems), range(metrics)):
        assert f"{row + column / 10:.3f} [0.000, 20.000]" in lines
    assert text.count("<circle") == systems * metrics
    assert text.count("<figure>") == metrics


def test_a_plot_puts_values_in_their_places():
    report = replace(REPORT, systems=(GOOD, BAD, INPUT))
    figure = page(report).split("<figure>")[1]
    dots = [float(place) for place in re.findall(r'<circle cx="([\d.]+)%', figure)]
    caps = [float(place) for place in re.findall(r'<rect x="([\d.]+)%', figure)]
    ticks = dict(re.findall(r'<text x="([\d.]+)%"[^>]*>([^<]+)<', figure))
    assert len(dots) == 3
    assert len(caps) == 4
    slope = (dots[1] - dots[0]) / (63.87 - 41.23)
    assert dots[2] == pytest.approx(dots[0] + slope * (7.0 - 41.23), abs=0.05)
    assert caps == pytest.approx([dots[0] + slope * (end - 41.23) for end in (36.04, 46.46, 57.1, 70.8)], abs=0.05)
    assert 2 <= len(ticks) <= 6
    for place, label in ticks.items():
        assert float(place) == pytest.approx(dots[0] + slope * (float(label) - 41.23), abs=0.05)
    assert all(0 <= place <= 100 for place in [*dots, *caps, *map(float, ticks)])


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e-12, 2e-12), (1e15, 1e15 + 1), (-5.0, 1e9), (7.0,)])
def test_a_plot_of_any_range(values):
    systems = tuple(System(name="s", measured=(measured(EDGES, value),)) for value in values)
    figure = page(replace(REPORT, systems=systems)).split("<figure>")[1]
    labels = re.findall(r"<text[^>]*>([^<]+)<", figure)
    assert 1 <= len(labels) <= 6
    assert len(set(labels)) == len(labels)
    assert all(0 <= float(place) <= 100 for place in re.findall(r'c?x\d?="([-\d.]+)%', figure))


def decoded(source: str) -> np.ndarray:
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_grids_hold_their_images():
    large, small = image(300, 600, seed=1), image(40, 30)[:, ::-1]
    grid = Grid(
        title="Failures",
        rows=("first", "second"),
        columns=("content", "result"),
        cells=((large, small), (None, small)),
        captions=(("", "edges 0.31"), ("not there", "edges 0.29")),
        text="The worst.",
    )
    strip = Grid(title="Strip", rows=("",), columns=("", ""), cells=((small, small),))
    text = page(replace(REPORT, systems=(), grids=(grid, strip)))
    read = Page(text)
    sources = read.values("img", "src")
    assert [decoded(source).shape for source in sources] == [(128, 256, 3), *[(40, 30, 3)] * 4]
    shrunk = cv2.resize(large, (256, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded(sources[0]).astype(int) - shrunk).mean() < 3  # and so the colours are in their order
    assert read.values("img", "alt")[:3] == ["first, content", "first, result", "second, result"]
    assert read.values("img", "width")[:2] == ["256", "30"]
    for said in ("The worst.", "not there", "edges 0.29", ">-<", "Failures", "first"):
        assert said in text
    assert 'scope="' not in text.split('id="report-1-grid-2"')[1]  # no labels: no empty row or column


def test_a_grid_whose_labels_do_not_match_is_refused():
    cell = image(8, 8)
    for rows, columns in ((("a", "b"), ("c",)), (("a",), ("b", "c"))):
        grid = Grid(title="g", rows=rows, columns=columns, cells=((cell,),))
        with pytest.raises(ValueError, match="zip"):
            page(replace(REPORT, grids=(grid,)))
    grid = Grid(title="g", rows=("a",), columns=("b",), cells=((cell[..., 0],),))
    with pytest.raises(ValueError, match="an image is uint8"):
        page(replace(REPORT, grids=(grid,)))


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    write_page(path, REPORT)
    assert path.read_text(encoding="utf-8") == page(REPORT)
    (tmp_path / "folder").mkdir()
    for wrong in (tmp_path / "missing" / "a.html", tmp_path / "folder"):
        with pytest.raises(DsmapError, match="cannot write"):
            write_page(wrong, REPORT)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "report.html"]


def test_the_table_turns_to_fit():
    wide = table(replace(REPORT, systems=(GOOD, BAD)), width=120)
    assert re.search(r"^kernel distance, lower is better +41\.2 \[36\.0, 46\.5\] +63\.9", wide, re.MULTILINE)
    upright = table(REPORT)
    assert re.search(r"^good +41\.2 \[36\.0, 46\.5\] +0\.700 +-$", upright, re.MULTILINE)
    assert upright.index("\nbad") < upright.index("\nuntranslated (baseline)")  # though given before it
    assert "---\nuntranslated" in upright
    assert len(re.findall("^---+$", table(replace(REPORT, systems=(BAD, BAD, BAD, BAD))), re.MULTILINE)) == 1
    narrow = table(REPORT, width=50)
    assert max(map(len, narrow.splitlines())) <= 50
    assert "41.2 [36.0, 46.5]" in narrow


def test_several_reports_on_one_page(tmp_path):
    other = replace(REPORT, title="Cats to dogs")
    text = page(REPORT, other)
    assert [place for place in re.findall(r'id="([^"]*)"', text) if re.fullmatch(r"report-\d", place)] == [
        "report-1",
        "report-2",
    ]
    places = re.findall(r'id="([^"]*)"', text)
    assert len(places) == len(set(places))
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(places)
    assert text.count("<h1>") == 2
    assert "Cats to dogs" in text
    write_page(tmp_path / "two.html", REPORT, other)
    assert (tmp_path / "two.html").read_text(encoding="utf-8") == text
