"""`timesformer app` in Chromium: uploads, predictions, maps, comparison, several users, and what goes wrong."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import timesformer_jax as tsf
from tests.browser.conftest import LABELS, MAX_BYTES

pytestmark = pytest.mark.browser

FILE = "#chooser input[type=file]"
DONE = "() => document.querySelector('#shown [aria-busy=false]:not([data-before])')"


def choose(page: Any, path: Path) -> None:
    """Upload a video and wait for its results; those of an earlier one are marked until they are gone."""
    page.evaluate("document.querySelector('#shown [aria-busy]')?.setAttribute('data-before', '')")
    page.set_input_files(FILE, path)
    page.wait_for_function(
        f"name => document.querySelector('#chooser .state').textContent === name && ({DONE})()", arg=path.name
    )


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector(FILE, state="attached")
    return page


def shares(page: Any, column: int) -> dict[str, str]:
    """Labels and probabilities that a column shows."""
    article = page.locator("#shown article").nth(column)
    return dict(zip(article.locator(".label").all_inner_texts(), article.locator(".share").all_inner_texts(), strict=True))


def expected_of(checkpoint: Path, video: Path) -> dict[str, str]:
    best = tsf.load(checkpoint).predict(video, num_crops=1, top_k=len(LABELS))
    return {label: f"{100 * probability:.1f} %" for label, probability in best}


def video_of(page: Any, column: int) -> dict[str, Any]:
    """Facts of a column's video, once it is loaded."""
    return page.wait_for_function(
        """column => {
            const video = document.querySelectorAll("#shown article")[column].querySelector("video");
            return video?.readyState >= 2 && {width: video.videoWidth, seconds: video.duration, address: video.src};
        }""",
        arg=column,
    ).json_value()


def captions(page: Any) -> list[str]:
    return page.locator("#shown figcaption").all_inner_texts()


def test_upload_shows_labels_frames_and_maps_of_both_models(
    page: Any, app: str, checkpoints: list[Path], videos: dict[str, Path]
):
    opened(page, app)
    choose(page, videos["across"])
    assert page.locator("#shown h2").all_inner_texts() == [path.name for path in checkpoints]
    for column, checkpoint in enumerate(checkpoints):
        assert shares(page, column) == expected_of(checkpoint, videos["across"])
        pictures = page.locator("#shown article").nth(column).locator(".strip img")
        assert pictures.count() == 4
        drawn = video_of(page, column)
        assert drawn["width"] == 64  # the original's, though the model sees 32
    assert shares(page, 0) != shares(page, 1)
    assert page.locator("#shown b").count() == 0, "labels are text"


def test_label_method_and_strength_can_be_changed(page: Any, app: str, videos: dict[str, Path]):
    opened(page, app)
    choose(page, videos["down"])
    before = [video_of(page, column)["address"] for column in range(2)]
    listed = page.locator("#label input")
    listed.click()
    page.wait_for_function("getSelection().toString() || document.activeElement.selectionEnd > 0")
    listed.press_sequentially("away")
    page.wait_for_function("document.querySelectorAll('#label [role=option]').length === 1")
    page.locator("#label [role=option]").click()
    # One of them may have been the best label before.
    every = "[...document.querySelectorAll('#shown figcaption')].every((one) => one.innerText.includes('& away'))"
    page.wait_for_function(f"() => {every} && ({DONE})()")
    assert all(f"“{LABELS[3]}”" in caption for caption in captions(page))
    assert page.locator("#shown .explained .label").all_inner_texts() == [LABELS[3]] * 2
    after = [video_of(page, column)["address"] for column in range(2)]
    assert not set(before) & set(after)

    page.locator("#method label", has_text="rollout").click()
    page.wait_for_function("document.querySelector('#shown figcaption')?.innerText.includes('rollout')")
    page.wait_for_function(DONE)
    assert page.locator("#shown .explained").count() == 0
    rollout = video_of(page, 1)["address"]

    slider = page.locator("#strength input[type=range]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("old => document.querySelectorAll('#shown video')[1]?.src !== old", arg=rollout)
    page.wait_for_function(DONE)
    assert page.request.get(rollout).status == 404, "what was replaced is removed"


def test_two_users_at_once_get_their_own_results(
    new_page: Callable[..., Any], app: str, checkpoints: list[Path], videos: dict[str, Path]
):
    pages = {name: opened(new_page(), app) for name in ("across", "back")}
    for name, page in pages.items():
        page.set_input_files(FILE, videos[name])
    for name, page in pages.items():
        page.wait_for_function(DONE)
        for column, checkpoint in enumerate(checkpoints):
            assert shares(page, column) == expected_of(checkpoint, videos[name]), name
    tokens = [re.findall("media/([^/]+)/", page.locator("#shown").inner_html()) for page in pages.values()]
    assert [len(set(each)) for each in tokens] == [1, 1]
    assert tokens[0][0] != tokens[1][0]


def test_broken_file_gives_a_message_and_the_next_one_works(page: Any, app: str, videos: dict[str, Path], tmp_path: Path):
    opened(page, app)
    broken = tmp_path / "holiday <i>.mp4"
    broken.write_bytes(videos["down"].read_bytes()[:700])
    page.set_input_files(FILE, broken)
    message = page.wait_for_selector("#status [role=alert]").inner_text()
    assert message.startswith(f"Can't read {broken.name} as a video: ")
    assert "/tmp" not in message
    assert page.locator("#shown article").count() == 0
    choose(page, videos["one frame"])
    assert page.locator("#status [role=alert]").count() == 0
    assert video_of(page, 0)["width"] == 64


def test_file_over_the_limit_is_refused_while_it_is_sent(page: Any, app: str, tmp_path: Path, uploads: Path):
    opened(page, app)
    (tmp_path / "long.mp4").write_bytes(b"x" * (MAX_BYTES + 1))
    page.set_input_files(FILE, tmp_path / "long.mp4")
    message = page.wait_for_selector("#chooser .wrong").inner_text()
    assert f"max_bytes={MAX_BYTES}" in message
    assert list(uploads.rglob("long*")) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_horizontal_scrolling(new_page: Callable[..., Any], app: str, videos: dict[str, Path], scheme: str):
    page = opened(new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme), app)
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(overflow) <= 0
    choose(page, videos["across"])
    assert page.evaluate(overflow) <= 0
    wide = page.evaluate("[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391).length")
    assert wide == 0


def test_page_is_usable_by_keyboard(page: Any, app: str):
    opened(page, app)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText.trim()"))
    assert reached[:2] == ["file", "8 moves right"]
    page.locator("#chooser .examples button").first.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function(DONE)
    assert page.locator("#chooser [aria-pressed=true]").inner_text() == "8 moves right"


def test_uploads_are_removed_with_their_page(new_page: Callable[..., Any], app: str, videos: dict[str, Path], uploads: Path):
    page = opened(new_page(), app)
    choose(page, videos["across"])
    token = re.findall("media/([^/]+)/", page.locator("#shown").inner_html())[0]
    assert any(token in str(path) for path in uploads.rglob("*"))
    page.close()
    deadline = time.monotonic() + 30
    while any(token in str(path) for path in uploads.rglob("*")):
        assert time.monotonic() < deadline, "the upload outlives its page"
        time.sleep(0.2)


def test_click_on_the_timeline_looks_at_that_moment(page: Any, app: str, checkpoints: list[Path], videos: dict[str, Path]):
    """All models look there, and stay there if another label is chosen; the next video starts as in the evaluation."""
    opened(page, app)
    choose(page, videos["across"])
    bars = page.locator("#shown .timeline .bars").first
    bars.click(position={"x": 0.7 * bars.bounding_box()["width"], "y": 10})
    heading = "[...document.querySelectorAll('#shown .frames h3')].every((one) => one.innerText.endsWith('from 2.5 s on'))"
    page.wait_for_function(f"() => {heading} && ({DONE})()")
    assert page.locator("#moment input[type=range]").input_value() == "2.5"
    expected = {}
    for column, path in enumerate(checkpoints):
        pretrained = tsf.load(path)
        clip = tsf.video.clip_at(pretrained.preprocess, videos["across"], 2.5)
        scores = pretrained.view_scores(clip.views)
        expected[column] = {label: f"{100 * share:.1f} %" for label, share in pretrained.best(scores, len(LABELS))}
        assert shares(page, column) == expected[column]
    marks = page.locator("#shown .timeline .clip").first
    assert marks.get_attribute("title") == "The model looks at 2.5 s to 2.9 s"

    page.locator("#method label", has_text="rollout").click()
    page.wait_for_function(f"() => document.querySelector('#shown figcaption')?.innerText.includes('rollout') && ({DONE})()")
    assert [shares(page, column) for column in range(2)] == list(expected.values())
    choose(page, videos["one frame"])
    page.locator("#moment").wait_for(state="hidden")
    choose(page, videos["down"])
    page.locator("#moment").wait_for(state="visible")
    assert page.locator("#moment input[type=range]").input_value() == "0"
    assert shares(page, 0) == expected_of(checkpoints[0], videos["down"])
