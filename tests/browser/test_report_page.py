"""The report's page in a browser: animations, figures, search, keyboard, phones and dark mode."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.made_reports import make_report, make_rows, many_names
from timesformer_jax import evaluation

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report of eight classes, compared with another run; one label is markup."""
    names = [*many_names(7), "</script><script>document.title = 'attacked'</script>"]
    report = make_report(names, per_class=20)
    others = make_rows(names, 20, 0.5, seed=4)
    compared = evaluation.compare_predictions(report.rows, others, names=("runs/a", "runs/b"))
    return write(tmp_path_factory.mktemp("small"), dataclasses.replace(report, comparison=compared))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report of 400 classes."""
    return write(tmp_path_factory.mktemp("large"), make_report(many_names(400), per_class=8))


def write(folder: Path, report: evaluation.Report) -> str:
    path = folder / "report.html"
    path.write_text(evaluation.render_report(report))
    return path.as_uri()


def pixels(canvas: Any) -> str:
    return canvas.evaluate("each => each.toDataURL()")


def test_clips_play_pause_and_step(page: Any, small: str):
    page.goto(small)
    example = page.locator(".example").first
    example.scroll_into_view_if_needed()
    output = example.locator("output")
    page.wait_for_function("each => each.textContent !== '1 / 8'", arg=output.element_handle())
    example.get_by_role("button", name="Pause").click()
    assert example.get_by_role("button", name="Play").count() == 1
    slider = example.get_by_role("slider")
    slider.fill("2")
    assert output.text_content() == "3 / 8"
    canvas = example.locator("canvas.plain")
    third = pixels(canvas)
    slider.fill("7")
    assert pixels(canvas) != third
    mapped = pixels(example.locator("canvas.mapped"))
    page.locator("#map-strength").fill("0")
    assert pixels(example.locator("canvas.mapped")) != mapped
    page.get_by_role("button", name="Pause all").click()
    assert page.locator(".playing").count() == 0


def test_reduced_motion_is_respected(new_page: Callable[..., Any], small: str):
    page = new_page(reduced_motion="reduce")
    page.goto(small)
    page.locator(".example").first.scroll_into_view_if_needed()
    assert page.locator(".playing").count() == 0
    page.get_by_role("button", name="Play all").click()
    assert page.locator(".playing").count() == page.locator(".player").count() > 0


def test_examples_are_searched_filtered_and_sorted(page: Any, small: str):
    page.goto(small)
    shown = page.locator(".example:visible")
    total = shown.count()
    page.locator("#example-kind").select_option("wrong")
    assert 0 < shown.count() < total
    assert page.locator(".example.right:visible").count() == 0
    name = shown.last.locator(".file").text_content()
    search = page.locator("[data-filter=example-list]")
    search.fill(name)
    assert shown.count() == 1
    search.fill("no such video")
    assert page.get_by_text("No example matches.").is_visible()
    search.fill("")
    page.locator("#example-kind").select_option("")
    page.locator("#example-order").select_option("score")
    scores = [float(value) for value in page.locator(".example").evaluate_all("all => all.map(each => each.dataset.score)")]
    assert scores == sorted(scores, reverse=True)


def test_classes_sort_by_keyboard(page: Any, small: str):
    page.goto(small)
    head = page.locator("table.classes").get_by_role("button", name="Accuracy")
    head.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("table.classes th[aria-sort=descending]").count() == 1
    cells = page.locator("#class-list td.share").evaluate_all("all => all.map(each => Number(each.dataset.value))")
    assert cells == sorted(cells, reverse=True)


def test_curves_show_values_under_the_pointer_and_by_keyboard(page: Any, small: str):
    page.goto(small)
    figure = page.locator(".chart").first
    drawing, readout = figure.locator("svg"), figure.locator(".readout")
    assert "step 990" in readout.text_content()
    drawing.hover(position={"x": 20, "y": 50})
    assert "step 0 " in " ".join(readout.text_content().split()) + " "
    page.mouse.move(0, 0)
    drawing.focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert "step 20" in readout.text_content()
    assert figure.locator(".cursor").get_attribute("visibility") == "visible"


def test_curves_keep_the_values_that_a_finger_chose(new_page: Callable[..., Any], small: str):
    page = new_page(viewport={"width": 390, "height": 800}, has_touch=True)
    page.goto(small)
    figure = page.locator(".chart").first
    figure.locator("svg").tap(position={"x": 20, "y": 50})
    assert "step 0 " in " ".join(figure.locator(".readout").text_content().split()) + " "


def test_markup_in_a_label_runs_nothing(page: Any, small: str):
    page.goto(small)
    assert page.title() != "attacked"
    page.locator("#scatter-class").select_option("7")
    assert "</script><script>" in page.locator("#scatter-video").text_content()


def test_large_confusion_matrix_is_searched(page: Any, large: str):
    page.goto(large)
    field = page.get_by_label("Look closer at")
    name = many_names(400)[123]
    field.fill(name)
    field.press("Enter")
    assert page.locator("#confusion-near tbody th").first.text_content() == name
    assert name in page.locator("#confusion-note").text_content()
    assert page.locator("#confusion-near td.wrong").count() > 0
    canvas = page.locator("#confusion-map")
    canvas.hover(position={"x": 5, "y": 5})
    assert "of 8" in page.locator("#confusion-cell").text_content()
    canvas.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.locator("#confusion-near tbody th").first.text_content() != name
    before = pixels(canvas)
    page.locator("#confusion-order").select_option("name")
    assert pixels(canvas) != before


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("size", ["small", "large"])
def test_page_fits_its_window(new_page: Callable[..., Any], request: pytest.FixtureRequest, size: str, width: int):
    page = new_page(viewport={"width": width, "height": 800})
    page.goto(request.getfixturevalue(size))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(new_page: Callable[..., Any], small: str, scheme: str):
    """WCAG's 4.5 to 1, on the page's own backgrounds."""
    page = new_page(color_scheme=scheme)
    page.goto(small)
    ratios = page.evaluate(CONTRAST)
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    assert len(ratios) > 50


def test_print_is_light_and_complete(new_page: Callable[..., Any], small: str):
    page = new_page(color_scheme="dark")
    page.goto(small)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".toolbar:visible, .controls:visible, nav:visible").count() == 0
    assert page.pdf()[:5] == b"%PDF-"


def test_every_control_is_reached_by_tab(page: Any, small: str):
    page.goto(small)
    wanted = page.locator(
        "button:visible, input:visible, select:visible, a[href]:visible, summary:visible, svg[tabindex]"
    ).count()
    seen = set()
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(seen - {-1}) >= wanted


CONTRAST = """() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    paint.clearRect(0, 0, 1, 1);
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = {};
  for (const element of document.querySelectorAll("main *, header *, nav *")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!own || !element.checkVisibility() || element.closest("svg, option, noscript")) continue;
    const backs = [];
    for (let each = element; each; each = each.parentElement) backs.unshift(getComputedStyle(each).backgroundColor);
    const back = over(backs), text = over([...backs, getComputedStyle(element).color]);
    const [high, low] = [light(back), light(text)].sort((a, b) => b - a);
    found[`${element.tagName} ${element.className} ${own.slice(0, 40)}`] = (high + 0.05) / (low + 0.05);
  }
  return found;
}"""
