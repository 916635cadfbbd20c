"""The report's page: its content, its freedom from network requests, and its behaviour in a browser."""

import base64
import dataclasses
import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from timesformer_jax import evaluation

NAMES = ["<b>jumps</b>", "runs", "walks"]
CONFUSION = np.array([[5, 2, 1], [0, 3, 0], [0, 0, 0]])
GIF = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
RESULTS = {
    "split": "val",
    "num_videos": 11,
    "num_clips": 2,
    "num_crops": 3,
    "placement": "official",
    "average": "probabilities",
    "top1": 8 / 11,
    "top5": 1.0,
    "mean_class_accuracy": 0.8125,
    "calibration_error": 0.04,
    "intervals": {"top1": [0.5, 0.9], "top5": [0.7, 1.0], "mean_class_accuracy": None},
    "by_average": {
        "probabilities": {"top1": 8 / 11, "top5": 1.0, "mean_class_accuracy": 0.8125, "calibration_error": 0.04},
        "logits": {"top1": 7 / 11, "top5": 1.0, "mean_class_accuracy": 0.8, "calibration_error": 0.06},
    },
    "by_num_clips": {"1": {"top1": 0.6, "top5": 1.0}, "2": {"top1": 8 / 11, "top5": 1.0}},
}
REPORT = evaluation.Report(
    title="folder & co",
    summary="A small one.",
    configuration={"model.depth": "2", "data.root": "/a/<i>folder</i>"},
    results=RESULTS,
    curves={
        "loss": {"training": ([1, 2, 3], [2.0, 1.0, 0.5])},
        "top-1": {"training": ([2], [0.5]), "validation": ([2], [0.4])},
    },
    label_names=NAMES,
    confusion=CONFUSION,
    best=[evaluation.ShownVideo("a.mp4", ["runs"], [("runs", 0.987), ("walks", 0.01)], GIF)],
    worst=[evaluation.ShownVideo("<script>alert(1)</script>.mp4", [NAMES[0]], [("walks", 0.7), (NAMES[0], 0.2)], GIF)],
    map_name="What it looks at.",
    points=b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    points_caption="Eleven points.",
    cost={"Parameters": "1,234"},
    unreadable={"broken.mp4": "no video stream"},
)
VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Content of a page; fails if its elements don't nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.ids |= {given["id"]} if "id" in given else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("script", "style") else ""


def test_report_is_self_contained_and_shows_its_input():
    page = Page(evaluation.render_report(REPORT))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert sum(link.startswith("data:image/svg+xml") for link in page.links) == 4  # curves, clips, confusion, features
    assert sum(link.startswith("data:image/gif") for link in page.links) == 2
    words = " ".join(page.text.split())
    for part in (
        "72.73 % [50.00 %, 90.00 %] 63.64 %",
        "81.25 % [n/a] 80.00 %",
        "63.64 %",
        "98.7 % runs",
        "broken.mp4",
        "<script>alert(1)</script>.mp4",
        "1,234",
    ):
        assert part in words
    assert "/a/<i>folder</i>" in words  # as text, not as an element


def test_first_column_uses_the_average_of_the_headline():
    results = {**RESULTS, "average": "logits"}
    page = Page(evaluation.render_report(dataclasses.replace(REPORT, results=results, validation="It differs.")))
    words = " ".join(page.text.split())
    assert "63.64 % [50.00 %, 90.00 %] 72.73 %" in words
    assert words.index("mean of the views' logits") < words.index("mean of the views' probabilities")
    assert "A small one. It differs." in words


def test_report_omits_absent_sections():
    bare = REPORT.__class__(
        **{
            **REPORT.__dict__,
            "curves": {},
            "confusion": None,
            "points": None,
            "worst": [],
            "results": {name: value for name, value in RESULTS.items() if name != "by_num_clips"},
        }
    )
    page = Page(evaluation.render_report(bare))
    assert not any(link.startswith("data:image/svg+xml") for link in page.links)
    assert "There are none." in page.text
    assert {"curves", "confusion", "classes", "features"}.isdisjoint(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_report_lists_the_classes():
    assert evaluation.class_rows(CONFUSION, NAMES) == [
        ("<b>jumps</b>", 8, 0.625, "runs", 2),
        ("runs", 3, 1.0, "", 0),
        ("walks", 0, None, "", 0),
    ]


def test_report_is_deterministic():
    assert evaluation.render_report(REPORT) == evaluation.render_report(REPORT)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_report_table_sorts_in_a_browser(tmp_path: Path):
    """Two clicks sort by accuracy in descending order."""
    clicks = """<script>const head = document.querySelectorAll("table.sortable th button")[2]; head.click(); head.click();
    document.title = [...document.querySelectorAll("table.sortable tbody td:first-child")].map((x) => x.textContent).join("|");
    </script></body>"""
    path = tmp_path / "report.html"
    path.write_text(evaluation.render_report(REPORT).replace("</body>", clicks))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "<title>runs|&lt;b&gt;jumps&lt;/b&gt;|walks</title>" in done.stdout
    assert 'aria-sort="descending"' in done.stdout


def test_names_are_drawn_and_written_without_control_characters():
    names = ["$x_1$ 100%", "$ a_^", "_\x1b[31m\u202e"]
    shown = evaluation.ShownVideo("a\x9b.mp4", [names[2]], [(names[2], 0.9)], GIF)
    report = dataclasses.replace(REPORT, label_names=names, best=[shown], unreadable={"b\n\x00.mp4": "c\x07"})
    page = Page(evaluation.render_report(report))
    for words in (names[0], names[1], r"_\x1b[31m\u202e", r"a\x9b.mp4", r"b\n\x00.mp4", r"c\x07"):
        assert words in page.text
    drawings = [base64.b64decode(link.partition(",")[2]).decode() for link in page.links if "svg" in link]
    assert sum(all(f">{words}</text>" in drawing for words in (*names[:2], r"_\x1b[31m\u202e")) for drawing in drawings) == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page.text + "".join(drawings))
