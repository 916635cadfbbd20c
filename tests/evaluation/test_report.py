"""The report's page: valid, self-contained, of bounded size, and with names as text whatever they are."""

import base64
import dataclasses
import functools
import io
import json
import re
from typing import Any

import html5lib
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.made_reports import confusion_of, make_report, make_rows, many_names, moving_blob, show
from timesformer_jax import evaluation
from timesformer_jax.evaluation import pictures, render
from timesformer_jax.evaluation.report import ConfusedPair, best_and_worst, confused_pairs
from timesformer_jax.evaluation.report import spread as spread_rows

MARKUP = ["</script ><script>alert(1)</script>", "<!--<script>", "\"' onload=alert(2) x='", "{{ 7 * 7 }}&amp;"]


class Page:
    """A page as a browser reads it; fails if the HTML has errors."""

    def __init__(self, text: str):
        parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
        self.elements = list(parser.parse(text).iter())

    def all(self, tag: str, **attributes: str) -> list[Any]:
        wanted = attributes.items()
        return [each for each in self.elements if each.tag == tag and all(each.get(name) == value for name, value in wanted)]

    def by_id(self, name: str) -> Any:
        (found,) = [each for each in self.elements if each.get("id") == name]
        return found

    def values(self, name: str) -> list[str]:
        return [value for each in self.elements if (value := each.get(name)) is not None]

    @property
    def words(self) -> str:
        """The text that is shown, with single spaces."""
        return " ".join(text_of(each) for each in (self.all("header", **{"class": "masthead"})[0], self.by_id("main")))


def text_of(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


@functools.cache
def small() -> evaluation.Report:
    report = make_report(many_names(3), per_class=12, num_examples=2)
    others = make_rows(many_names(3), 12, 0.5, seed=3)
    return dataclasses.replace(report, comparison=evaluation.compare_predictions(report.rows, others, names=("a", "b")))


@functools.cache
def small_page() -> str:
    return evaluation.render_report(small())


@pytest.fixture(scope="module")
def large_page() -> str:
    return evaluation.render_report(make_report(many_names(400), per_class=3, num_examples=2))


@pytest.mark.parametrize("classes", [3, 400])
def test_page_is_valid_and_self_contained(classes: int, large_page: str):
    text = small_page() if classes == 3 else large_page
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    addresses = page.values("src") + page.values("href")
    assert all(address.startswith(("data:", "#")) for address in addresses)
    named = {name for value in page.values("aria-labelledby") + page.values("list") for name in value.split()}
    named |= {address[1:] for address in addresses if address.startswith("#")} | set(page.values("data-filter"))
    assert named <= set(ids)
    assert all(each.get("alt") is not None for each in page.all("img"))
    assert "url(" not in text  # of a style
    assert "@import" not in text
    assert len(text.encode()) < 2e6


def test_page_shows_its_input():
    report, page = small(), Page(small_page())
    results = report.results
    for words in (
        f"{100 * results['top1']:.2f} % ({100 * results['intervals']['top1'][0]:.2f} to",
        f"{100 * results['mean_class_accuracy']:.2f} % (n/a)",
        "broken.mp4",
        "121,258,000",
        report.summary,
        report.map_name,
        *(example.name for example in report.examples),
    ):
        assert words in page.words
    assert len(page.all("img", **{"class": "frames"})) == len(page.all("img", **{"class": "maps"})) == len(report.examples)
    matrix = [[cell.text or "0" for cell in row.iter("td")] for row in page.all("table", **{"class": "matrix"})[0].iter("tr")][
        1:
    ]
    assert np.array_equal(np.array(matrix, int), report.confusion)
    charts = json.loads(page.by_id("report-data").text)["charts"]
    assert charts[0]["lines"][0]["steps"] == report.curves["loss"]["training"][0]


def test_large_confusion_matrix_is_data_for_the_script(large_page: str):
    page = Page(large_page)
    report = make_report(many_names(400), per_class=3, num_examples=2)
    data = json.loads(page.by_id("report-data").text)["confusion"]
    counts = np.zeros((400, 400), np.int64)
    for i, j, count in data["counts"]:
        counts[i, j] = count
    assert np.array_equal(counts, report.confusion)
    assert data["names"] == report.label_names
    assert {name: sorted(order) for name, order in data["orders"].items()} == {
        name: list(range(400)) for name in data["orders"]
    }
    similar = data["orders"]["similar"]
    place = {index: i for i, index in enumerate(similar)}
    apart = [abs(place[i] - place[j]) for i, j, _ in data["counts"] if i != j]
    assert np.median(apart) < 10  # as against 133 for a random order


def test_markup_in_names_is_text_everywhere():
    """Also in JSON, in attributes, and in names of other runs, files and fields."""
    names = MARKUP
    report = make_report(names, per_class=6, num_examples=3)
    rows = [{**row, "video": f"{MARKUP[0]}{row['video']}"} for row in report.rows]
    comparison = evaluation.compare_predictions(rows, make_rows_named(rows, names), names=(MARKUP[0], MARKUP[2]))
    pictured = evaluation.pictured_videos(report.confusion, names, rows)
    changed = dataclasses.replace(
        report,
        title=MARKUP[0],
        summary=MARKUP[1],
        rows=rows,
        examples=[show(row, 0) for row in rows[:3]],
        pictures={video: moving_blob(0)[0][0] for video in pictured},
        configuration={MARKUP[2]: MARKUP[0]},
        unreadable={MARKUP[0]: MARKUP[1]},
        comparison=comparison,
        validation=MARKUP[0],
        points=report.points._replace(names=[MARKUP[0]] * len(report.points.names)),
        curves={MARKUP[0]: {MARKUP[1]: ([1, 2], [0.5, 0.6])}},
        confusion=confusion_of(rows, names),
    )
    text = evaluation.render_report(changed)
    page, plain = Page(text), Page(evaluation.render_report(report))
    assert len(page.all("script")) == len(plain.all("script")) == 3
    assert not page.values("onload")
    data = json.loads(page.by_id("report-data").text)
    assert data["scatter"]["names"] == names
    assert data["charts"][0]["lines"][0]["name"] == MARKUP[1]
    assert page.by_id("main").find(".//h3") is not None
    assert [each.text for each in page.by_id("class-list").iter("th")] == names
    assert page.all("title")[0].text == MARKUP[0]
    assert {MARKUP[0], MARKUP[1], MARKUP[2]} <= {each.text for each in page.elements if isinstance(each.tag, str)}


def make_rows_named(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    other = make_rows(names, len(rows) // len(names), 0.4, seed=8)
    return [{**row, "video": mine["video"]} for row, mine in zip(other, rows, strict=True)]


def test_many_classes_with_markup_stay_data():
    names = [f"{MARKUP[i % 4]} {i}" for i in range(30)]
    page = Page(evaluation.render_report(make_report(names, per_class=2, num_examples=1)))
    assert json.loads(page.by_id("report-data").text)["confusion"]["names"] == names
    assert len(page.all("script")) == 3


def test_control_characters_are_escaped():
    names = ["$x_1$ 100%", "_\x1b[31m\u202e", "\udce9"]
    report = make_report(names, per_class=4, num_examples=2, unreadable={"b\n\x00.mp4": "c\x07"})
    text = evaluation.render_report(report)
    page = Page(text)
    for words in (names[0], r"_\x1b[31m\u202e", r"\xe9", r"b\n\x00.mp4", r"c\x07"):
        assert words in page.words
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)


def test_first_column_uses_the_average_of_the_headline():
    results = {**small().results, "average": "logits"}
    words = Page(evaluation.render_report(dataclasses.replace(small(), results=results, validation="It differs."))).words
    assert words.index("mean of the views' logits") < words.index("mean of the views' probabilities")
    assert "It differs." in words


def test_absent_sections_are_omitted():
    results = {name: value for name, value in small().results.items() if name != "by_num_clips"}
    bare = dataclasses.replace(small(), curves={}, points=None, examples=[], comparison=None, results=results, unreadable={})
    page = Page(evaluation.render_report(bare))
    assert {"training", "features", "comparison", "example-list"}.isdisjoint(page.values("id"))
    assert {address[1:] for address in page.values("href") if address[0] == "#"} <= set(page.values("id"))
    assert "There are no examples" in page.words
    assert not page.all("figure", **{"class": "chart"})


def test_multi_label_report_counts_labels_among_the_best_five():
    names = many_names(8)
    rows = [
        {"video": "a", "labels": [names[0], names[7]], "best": [[name, 0.1] for name in names[:5]], "views": 1},
        {"video": "b", "labels": [names[0]], "best": [[name, 0.1] for name in names[3:]], "views": 1},
        {"video": "c", "labels": [], "best": [[name, 0.1] for name in names[:5]], "views": 1},
    ]
    figures = {"top1": 0.5, "top5": 1.0, "map": 0.4}
    results = {**small().results, **figures, "intervals": {}, "by_average": {"probabilities": figures}, "by_num_clips": {}}
    results = {name: value for name, value in results.items() if name not in ("mean_class_accuracy", "calibration_error")}
    page = Page(
        evaluation.render_report(
            make_report(names, rows=rows, confusion=None, results=results, examples=[show(rows[2], 0)], pictures={})
        )
    )
    assert "confusion" not in page.values("id")
    cells = [text_of(row).replace(" %", "") for row in page.by_id("class-list").iter("tr")]
    assert cells[0] == f"{names[0]} 2 50.0"
    assert cells[7] == f"{names[7]} 1 0.0"
    assert "no label" in page.words


def test_report_is_deterministic():
    assert evaluation.render_report(small()) == small_page()


CONFUSION = np.array([[5, 2, 1], [0, 3, 0], [0, 0, 0]])


def test_classes_are_listed_with_their_confusions():
    assert evaluation.class_rows(CONFUSION, ["jumps", "runs", "walks"]) == [
        ("jumps", 8, 0.625, "runs", 2),
        ("runs", 3, 1.0, "", 0),
        ("walks", 0, None, "", 0),
    ]


def test_ranking_isnt_led_by_classes_with_few_videos():
    rows = [("lucky", 1, 1.0), ("good", 50, 0.98), ("bad", 50, 0.1), ("unlucky", 1, 0.0), ("absent", 0, None)]
    classes = [evaluation.ClassRow(name, videos, accuracy, "", 0) for name, videos, accuracy in rows]
    best, worst = best_and_worst(classes, 1)
    assert [row.label for row in (*best, *worst)] == ["good", "bad"]
    best, worst = best_and_worst(classes)
    assert ({row.label for row in best}, {row.label for row in worst}) == ({"lucky", "good"}, {"bad", "unlucky"})
    perfect = [evaluation.ClassRow(name, 50, 1.0, "", 0) for name in "abcd"]
    best, worst = best_and_worst(perfect)
    assert (len(best), worst) == (2, [])
    best, worst = best_and_worst([row._replace(accuracy=0.0) for row in perfect])
    assert (best, len(worst)) == ([], 2)


def row(video: str, label: str, predicted: str, score: float) -> dict[str, Any]:
    return {"video": video, "label": label, "best": [[predicted, score], ["other", 0.0]]}


def test_examples_are_errors_first_and_spread_over_classes():
    rows = [row(f"a{i}", "a", "b", 0.9 - i / 100) for i in range(5)] + [row("b", "b", "a", 0.2), row("c", "c", "c", 0.1)]
    assert [each["video"] for each in spread_rows(rows, 4)] == ["a0", "b", "c", "a1"]
    assert [each["video"] for each in evaluation.pick_examples(rows, 3)] == ["a0", "b", "a1", "c"]
    assert evaluation.pick_examples(rows, 0) == []


def test_confused_pairs_count_both_directions_and_show_both_classes():
    confusion = np.array([[5, 3, 0], [4, 1, 2], [0, 0, 0]])
    rows = [row("x", "a", "b", 0.6), row("y", "b", "a", 0.5), row("y2", "b", "a", 0.7), row("z", "b", "c", 0.9)]
    pairs = confused_pairs(confusion, ["a", "b", "c"], rows)
    assert pairs == [ConfusedPair("b", "a", 4, 3, ("y2", "x")), ConfusedPair("b", "c", 2, 0, ("z", ""))]


def test_clip_is_encoded_frame_by_frame():
    frames = np.stack([np.full((200, 340, 3), 25 * i, np.uint8) for i in range(8)])
    maps = np.linspace(0, 1, 8)[:, None, None] * np.ones((8, 4, 4))
    video = dataclasses.replace(show(row("a", "a", "a", 1.0), 0), frames=frames, maps=maps)
    (clip,) = pictures.encode_clips([video])
    assert (clip.count, clip.columns, clip.width, clip.height) == (8, 3, 340, 200)
    grid = np.asarray(Image.open(io.BytesIO(clip.frames)).convert("RGB"))
    opacity = np.asarray(Image.open(io.BytesIO(clip.maps)))[..., 3]
    for i in range(8):
        top, left = i // 3, i % 3
        assert abs(int(grid[top * 200 + 100, left * 340 + 170, 0]) - 25 * i) <= 4
        assert abs(opacity[top * 4 + 2, left * 4 + 2] / 255 - pictures.STRENGTH * i / 7) < 0.01


def test_large_frames_shrink_and_small_ones_grow_sharply():
    video = show(row("a", "a", "a", 1.0), 0)
    wide = dataclasses.replace(video, frames=np.zeros((2, 720, 1280, 3), np.uint8), maps=None)
    tiny = dataclasses.replace(video, frames=np.zeros((2, 32, 24, 3), np.uint8), maps=None)
    sizes = [(clip.width, clip.height, clip.maps) for clip in pictures.encode_clips([wide, tiny])]
    assert sizes == [(640, 360, b""), (240, 320, b"")]


def test_clips_share_their_budget():
    """Noise is the hardest to compress; the last of the sizes bounds a page of two hundred clips."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 180, 320, 3), dtype=np.uint8)
    video = dataclasses.replace(show(row("a", "a", "a", 1.0), 0), frames=noise, maps=np.ones((16, 14, 14)))
    (clip,) = pictures.encode_clips([video], pictures.CLIPS_BYTES // 200)
    assert len(clip.frames) + len(clip.maps) <= pictures.CLIPS_BYTES // 200
    assert clip.width == 160


def test_clips_shrink_if_the_rest_of_the_page_is_large(monkeypatch: pytest.MonkeyPatch):
    whole = len(small_page().encode())
    clips = sum(len(clip.frames) + len(clip.maps) for clip in pictures.encode_clips(small().examples))
    monkeypatch.setattr(render, "CLIPS_BYTES", clips)
    monkeypatch.setattr(render, "MOST_BYTES", whole - clips // 2)
    assert len(evaluation.render_report(small()).encode()) < whole - clips // 2


def test_thumbnail_is_a_small_jpeg():
    content = pictures.thumbnail(np.zeros((720, 1280, 3), np.uint8))
    assert Image.open(io.BytesIO(content)).size == (240, 135)
    assert base64.b64decode(pictures.data_uri(content).partition("base64,")[2]) == content
