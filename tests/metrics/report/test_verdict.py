"""The line of words that evaluations open with: one constructed outcome for each thing it can say."""

from dataclasses import replace

import pytest

from dsmap.metrics.catalogue import METRICS, frechet, kernel
from dsmap.metrics.report.html import page
from dsmap.metrics.report.table import numbers, table
from dsmap.metrics.report.verdict import of_folders, of_model, of_video
from dsmap.metrics.types import Interval, MetricValue, Report, System

KERNEL = kernel("squeezenet", "SqueezeNet", published=False, standardised=True)
FRECHET = frechet("squeezenet", "SqueezeNet", published=False)


def system(name: str, value: float, half: float | None, *, count: int = 152, metric=KERNEL, edges=None) -> System:
    interval = None if half is None else Interval(value - half, value + half)
    measured = [MetricValue(metric=metric, value=value, interval=interval, count=count)]
    if edges is not None:
        lost = Interval(edges - 0.01, edges + 0.01)
        measured.append(MetricValue(metric=METRICS["edge_structure"], value=edges, interval=lost, count=count))
    return System(name=name, measured=tuple(measured))


def said(mean, before, real=None, *, styles=None, references=900):
    systems = [system("mean style", *mean), *([] if styles is None else [system("styles of images", *styles)])]
    return of_model(
        systems,
        untranslated=system("untranslated cat", *before),
        real=None if real is None else system("real dog", *real),
        source="cat",
        target="dog",
        references=references,
    )


def test_a_model_that_comes_nearer():
    """The numbers of the bundled model to winter: intervals overlap, their difference does not."""
    told = said((51, 60), (205, 102), (-22, 47), styles=(24, 50))
    assert told == "Nearer to dog: 68 % of the distance is closed, 80 % in styles of images."


def test_little_of_the_distance():
    assert said((180, 5), (205, 5), (0, 5)) == "Nearer to dog: only 12 % of the distance is closed."


def test_not_more_than_all_of_the_distance():
    assert said((-5, 5), (205, 5), (0, 5)) == "Nearer to dog: 100 % of the distance is closed."


def test_without_real_images_there_are_no_shares():
    assert said((51, 20), (205, 40)) == "Nearer to dog: the distance falls from 205 to 51."
    told = said((51, 20), (205, 40), styles=(24, 20))
    assert told == "Nearer to dog: the distance falls from 205 to 51 in the mean style and 24 in the styles of images."


def test_styles_whose_interval_is_wide_are_not_counted():
    assert said((51, 20), (205, 40), (0, 5), styles=(24, 400)) == "Nearer to dog: 75 % of the distance is closed."


@pytest.mark.parametrize("value", [205, 210, 230])
def test_a_model_that_comes_no_nearer(value):
    assert said((value, 40), (205, 40), (0, 5)) == "No nearer to dog than the untranslated images of cat are."


def test_a_model_that_goes_away():
    assert said((400, 40), (205, 40), (0, 5)) == "Further from dog than the untranslated images of cat are."


def test_intervals_that_do_not_decide():
    told = said((150, 60), (205, 60), (0, 5))
    assert told.startswith("Not decided: the translations seem nearer to dog than the untranslated images of cat are")


@pytest.mark.parametrize(
    ("count", "references", "half"),
    [(49, 900, 5), (152, 99, 5), (152, 900, None)],
    ids=["results", "reference", "none"],
)
def test_too_few_images(count, references, half):
    mean = system("mean style", 10, half, count=count)
    told = of_model([mean], untranslated=system("u", 200, 5), real=None, source="a", target="b", references=references)
    assert told.startswith("Too few images to say: ")


def test_results_without_their_contents():
    """Near to the reference alone is no translation."""
    told = of_model(
        [system("mean style", 10, 5, edges=0.03)],
        untranslated=system("u", 200, 5),
        real=None,
        source="a",
        target="b",
        references=200,
    )
    assert told.endswith(", but little of the content is kept (edge structure 0.03).")


def test_frechet_distances_of_different_numbers_of_images_say_nothing():
    fewer = system("u", 200, 5, metric=FRECHET, count=100)
    mean = system("mean style", 10, 5, metric=FRECHET)
    assert of_model([mean], untranslated=fewer, real=None, source="a", target="b", references=900) == ""
    equal = system("u", 200, 5, metric=FRECHET)
    assert of_model([mean], untranslated=equal, real=None, source="a", target="b", references=900) != ""


def test_systems_compared():
    ours, munit, before = system("ours", 50, 5), system("munit", 90, 5), system("untranslated", 200, 5)
    assert of_folders([munit, ours], untranslated=before, references=900) == (
        "ours is nearest to the reference; ours is nearer to it than the untranslated contents are (50 against 200)."
    )
    assert of_folders([munit, system("ours", 88, 5)], untranslated=None, references=900) == (
        "These images do not decide whether ours or munit is nearest to the reference."
    )
    assert of_folders([munit], untranslated=system("untranslated", 80, 5), references=900) == (
        "munit is further from the reference than the untranslated contents are."
    )
    assert of_folders([munit], untranslated=None, references=900) == ""
    assert of_folders([ours, munit], untranslated=None, references=20).startswith("Too few images to say")


def test_systems_without_distances():
    assert of_folders([System(name="ours", measured=())], untranslated=None, references=900) == ""


def test_videos():
    assert of_video([("plain", 1.554)]) == "More flicker than the input (+1.55 grey levels)."
    assert of_video([("plain", 0.2)]) == "Slightly more flicker than the input (+0.20 grey levels)."
    assert of_video([("plain", -0.3)]) == "No more flicker than the input."
    assert of_video([("plain", 1.5), ("stable", 0.4)]) == (
        "stable flickers least: slightly more flicker than the input (+0.40 grey levels)."
    )
    assert of_video([]) == ""


def test_it_opens_page_and_table_and_is_in_the_numbers():
    report = Report(
        title="A title", facts={}, systems=(system("ours", 50, 5),), verdict="Nearer <b>.", notes=("Note.",)
    )
    text = page(report)
    assert '<h1>A title</h1>\n<p class="verdict">Nearer &lt;b&gt;.</p>' in text
    assert table(report).startswith("A title\nNearer <b>.\n")
    assert numbers(report)["verdict"] == "Nearer <b>."
    assert 'class="verdict"' not in page(replace(report, verdict=""))
