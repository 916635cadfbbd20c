"""Gradio's page: choosing a video, the controls, and the results."""

# Gradio and what it brings are optional.
# pyright: reportMissingImports=false

import importlib.resources
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gradio as gr

from timesformer_jax.app import html
from timesformer_jax.app.analysis import Analysis, Choice, Step
from timesformer_jax.app.checkpoint import METHODS, Checkpoint
from timesformer_jax.app.examples import Examples
from timesformer_jax.app.store import RemovedError, Store
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import sentence
from timesformer_jax.printable import printable
from timesformer_jax.video import Limits

log = logging.getLogger("timesformer_jax")

AT_ONCE = 3
"""Number of pages for which the server computes at the same time; the others wait."""
MOST_WAITING = 64
REMOVED = "This video has been removed from the server: choose it again."
BEST_LABEL = ""
"""Value of the list of labels that stands for the best label of each model."""


def static(name: str) -> str:
    """Return the text of one of the page's files."""
    return importlib.resources.files("timesformer_jax.app").joinpath("static", name).read_text(encoding="utf-8")


def look() -> dict[str, Any]:
    """Return the page's theme, styles and scripts, as arguments of `gradio.mount_gradio_app`. All fonts are the system's."""
    font = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=font,
        font_mono=("ui-monospace", "monospace"),
        radius_size="lg",
        text_size="md",
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0d1117",
        background_fill_primary_dark="#151b23",
        block_background_fill_dark="#151b23",
        border_color_primary_dark="#2d3540",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
    return {"theme": theme, "css": static("page.css"), "head": f"{static('head.html')}<script>{static('page.js')}</script>"}


def build_page(checkpoints: Sequence[Checkpoint], store: Store, limits: Limits, max_side: int | None = None) -> gr.Blocks:
    """Make the page.

    Args:
        checkpoints: The checkpoints to compare.
        store: The uploaded videos.
        limits: Largest video to accept.
        max_side: Maximum of width and height in pixels of drawn videos; None for the video's own size.
    """
    examples = Examples(store.folder / "examples")
    labels = list(dict.fromkeys(label for one in checkpoints for label in one.labels))
    best = "Best label" if len(checkpoints) == 1 else "Best label of each model"
    choices = [(best, BEST_LABEL), *((printable(label), label) for label in labels)]
    methods = [(title, name) for name, title in METHODS.items() if any(name in one.methods for one in checkpoints)]
    usual = Choice()

    with gr.Blocks(title="timesformer", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(static("header.html"), elem_id="top", js_on_load=None)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=0, min_width=300, elem_id="side"):
                template = static("chooser.html").replace("@examples", html.example_buttons(examples.thumbnails))
                chooser = gr.HTML(
                    html_template=template, js_on_load=static("chooser.js"), elem_id="chooser", apply_default_css=False
                )
                with gr.Column(elem_id="controls"):  # the styles hide what has no use yet
                    label = gr.Dropdown(
                        choices, value=BEST_LABEL, label="Label to explain", info="Type to search", elem_id="label"
                    )
                    method = gr.Radio(methods, value=usual.method, label="Map", elem_id="method", visible=len(methods) > 1)
                    strength = gr.Slider(0, 1, usual.strength, step=0.05, label="Strength", elem_id="strength", buttons=[])
                    moment = gr.Slider(0, 1, 0, step=0.1, label="Clip start (s)", elem_id="moment", buttons=[])
            with gr.Column(scale=1, min_width=300, elem_id="view"):
                status = gr.HTML(elem_id="status", js_on_load=None, apply_default_css=False)
                shown = gr.HTML(html.welcome(checkpoints), elem_id="shown", js_on_load=None, apply_default_css=False)
        token = gr.State()

        def reported(upload: Any, steps: Iterator[dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
            """Pass on what is to be shown, or else what went wrong."""
            try:
                yield from store.while_used(upload, steps)
                return
            except InputError as error:
                message = upload.said(error)
            except OSError as error:
                message = sentence(error, "The server can't work on this video")
            except Exception:
                log.exception("The page could not work on %s", upload.name)
                message = "Something went wrong on the server; its terminal says what. Try another video."
            yield {status: html.problem(REMOVED if upload.removed else message), shown: ""}

        def opened(given: Any, method: str, strength: float, request: gr.Request) -> Iterator[dict[Any, Any]]:
            try:
                upload = store.claim(given, request.session_hash)
            except RemovedError:
                yield {status: html.problem(REMOVED)}
                return
            analysis = upload.kept["analysis"] = Analysis(upload, checkpoints, limits, max_side)

            def steps() -> Iterator[dict[Any, Any]]:
                yield {shown: "", label: BEST_LABEL, token: upload.token}
                for step in analysis.predict():
                    yield {status: html.progress(step), shown: html.results(analysis.columns, busy=True)}
                limit = round(analysis.latest or 1.0, 1)
                yield {moment: gr.Slider(value=round(analysis.columns[0].seconds, 1), maximum=limit)}
                todo = itertools.chain(analysis.explain(Choice(None, method, float(strength))), analysis.follow())
                for update in showing(analysis, todo):
                    # Each time, since a page may miss a quick update; the user may have moved the slider.
                    yield {moment: gr.Slider(maximum=limit), **update}

            yield from reported(upload, steps())

        def showing(analysis: Analysis, steps: Iterable[Step]) -> Iterator[dict[Any, Any]]:
            this = object()
            analysis.running.add(this)
            try:
                for step in steps:
                    yield {status: html.progress(step), shown: html.results(analysis.columns, busy=True)}
            finally:
                analysis.running.discard(this)
            if not analysis.running:
                yield {status: "", shown: html.results(analysis.columns, busy=False)}

        def uploaded(method: str, strength: float, event: gr.EventData, request: gr.Request) -> Iterator[dict[Any, Any]]:
            """A video was uploaded: the event has its token."""
            yield from opened(event._data.get("token"), method, strength, request)

        def picked(method: str, strength: float, event: gr.EventData, request: gr.Request) -> Iterator[dict[Any, Any]]:
            """An example was picked: the event has its number."""
            yield from opened(examples.add(event._data.get("number"), store), method, strength, request)

        def changed(
            given: Any, label: str, method: str, strength: float, moment: float | None = None
        ) -> Iterator[dict[Any, Any]]:
            """Something else is to be seen of the same video, at another moment if there is one."""
            try:
                upload = store.get(given)
                analysis = upload.kept["analysis"]
            except (RemovedError, KeyError):
                yield {status: html.problem(REMOVED)}
                return
            if moment is not None:
                analysis.moment = float(moment)
            choice = Choice(label if label != BEST_LABEL else None, method, float(strength), analysis.moment)
            yield from reported(upload, showing(analysis, analysis.explain(choice)))

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "model"}
        private["concurrency_limit"] = AT_ONCE
        chosen, latest_only = [token, label, method, strength], {"trigger_mode": "always_last", **private}
        changes = [
            gr.on([label.input, method.input, strength.input], changed, chosen, [status, shown], **latest_only),
            moment.input(changed, [*chosen, moment], [status, shown], **latest_only),
        ]
        everything = [token, status, shown, label, moment]
        chooser.upload(uploaded, [method, strength], everything, cancels=changes, **private)
        chooser.select(picked, [method, strength], everything, cancels=changes, **private)

        def closed(request: gr.Request) -> None:
            store.release(request.session_hash)

        blocks.unload(closed)
    blocks.queue(max_size=MOST_WAITING, api_open=False)
    return blocks
