"""GPU section of docs/performance.md, drawn from results files."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.record import find, first_line, read_record
from benchmarks.marks import replace_marked

RESULTS = Path(__file__).parent.parent / "results"
BEGIN, END = "<!-- benchmarks/gpu.py --page writes from here -->", "<!-- to here -->"
NOT_YET = "Not measured on a GPU yet."

Entry = dict[str, Any]


def write_page(files: Sequence[Path], document: Path) -> Path:
    """Replace the text between the two marks of `document`.

    Raises:
        ValueError: If the document lacks the marks, or a file is not a results file.
    """
    replace_marked(document, BEGIN, END, render(files))
    return document


def render(files: Sequence[Path]) -> str:
    """Return Markdown for all files, each under the name of its card; further files of the same card add their own name."""
    cards, headings = [], set[str]()
    for path in files:
        content = read_record(path)
        device = find(content, "card", "device") or {"kind": "unknown device", "versions": {}, "settings": {}}
        heading = f"{device['kind']} ({path.stem})" if device["kind"] in headings else device["kind"]
        headings.add(heading)
        cards.append(_card(heading, content, device, path.name))
    return "\n\n".join(cards) or NOT_YET


def _card(heading: str, content: dict[str, Any], device: dict[str, Any], name: str) -> str:
    parts = [
        f"### {heading}",
        _conditions(content, device, name),
        _yardsticks(content),
        *(part for section in TABLES if (part := _table(content, section))),
        _profile(content),
        _failures(content),
    ]
    return "\n\n".join(part for part in parts if part)


def _conditions(content: dict[str, Any], device: dict[str, Any], name: str) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in device["versions"].items())
    settings = ", ".join(f"{key}={value}" for key, value in device["settings"].items() if value not in ("", "None", None))
    finished = "" if content["finished"] else " The run was interrupted."
    lines = [
        f"{content['started'][:10]}, {content['about']}; `benchmarks/results/{name}`.{finished}",
        f"Driver and card: {device['nvidia_smi']}." if device.get("nvidia_smi") else "",
        f"Python {device.get('python', '?')}, {versions}{'; ' if settings else ''}{settings}.",
        "Computation is in bfloat16. Model FLOPs are 2 (forward) or 6 (training) per multiply-add needed for logits. MFU is "
        "relative to the measured matrix product and to the data sheet.",
    ]
    return "\n".join(line for line in lines if line)


def _yardsticks(content: dict[str, Any]) -> str:
    rows = []
    for entry in content["entries"]:
        if entry["section"] == "card" and "result" in entry and entry["name"] != "device":
            result = entry["result"]
            unit = ("teraflops", "TFLOP/s") if "teraflops" in result else ("gigabytes_per_second", "GB/s")
            rows.append([entry["name"], f"{result[unit[0]]:,.1f} {unit[1]}"])
    return _markdown(["reference", "measured"], rows)


def _number(key: str, pattern: str = "{:,.1f}", scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    return lambda result: "-" if result.get(key) is None else pattern.format(scale * result[key])


MODEL = {
    "ms": _number("seconds", "{:,.2f}", 1e3),
    "clips/s": _number("clips_per_second"),
    "from host memory": _number("from_host_clips_per_second"),
    "TFLOP/s": _number("teraflops"),
    "MFU, measured": _number("mfu_of_matrix_product", "{:.1f} %", 100),
    "MFU, data sheet": _number("mfu_of_data_sheet", "{:.1f} %", 100),
    "GiB": _number("needs_gib", "{:.2f}"),
    "compile s": _number("compile_seconds"),
}
PEER = {
    "batch": _number("batch_size", "{:.0f}"),
    "ours, clips/s": _number("our_clips_per_second"),
    "peer, clips/s": _number("peer_clips_per_second"),
    "ours / peer, time": _number("ratio", "{:.2f}"),
}
TABLES: dict[str, tuple[str, dict[str, Callable[[dict[str, Any]], str]]]] = {
    "forward": ("Forward pass", MODEL),
    "train": ("Training step", MODEL),
    "attention": (
        "Attention in isolation, from tokens to attention outputs",
        {
            "forward ms": _number("forward_ms", "{:.3f}"),
            "forward and backward ms": _number("forward_and_backward_ms", "{:.3f}"),
            "relative error": _number("relative_error", "{:.1e}"),
            "relative error of gradient": _number("relative_error_of_gradient", "{:.1e}"),
            "agrees with float32": lambda result: {"True": "yes", "False": "NO"}.get(str(result.get("agrees")), "-"),
        },
    ),
    "remat": ("Training step with rematerialization", MODEL),
    "long_clips": ("Long clips", MODEL),
    "systems": (
        "The paper's systems (Table 2)",
        {**MODEL, "views of a video": _number("views", "{:.0f}"), "test of a video, s": _number("video_seconds", "{:.3f}")},
    ),
    "augmentation": (
        "Augmentation on the device",
        {
            "step ms": _number("step_seconds", "{:.2f}", 1e3),
            "augmented ms": _number("augmented_step_seconds", "{:.2f}", 1e3),
            "share of the step": _number("share_of_step", "{:.1f} %", 100),
        },
    ),
    "copies": (
        "Copies of batches",
        {
            "MB": _number("megabytes"),
            "GB/s": _number("copy_gigabytes_per_second"),
            "step ms": _number("step_seconds", "{:.2f}", 1e3),
            "copy ms": _number("copy_seconds", "{:.2f}", 1e3),
            "both ms": _number("step_and_copy_seconds", "{:.2f}", 1e3),
            "share of the copy hidden": _number("share_hidden", "{:.0f} %", 100),
        },
    ),
    "peer": ("Hugging Face transformers in PyTorch, alternating with ours", PEER),
}
"""Maps each section to its title and its columns, each with a function that formats a result."""


def _table(content: dict[str, Any], section: str) -> str:
    title, columns = TABLES[section]
    entries = [
        entry for entry in content["entries"] if entry["section"].removesuffix("_first") == section and "result" in entry
    ]
    shown = {name: text for name, text in columns.items() if any(text(entry["result"]) != "-" for entry in entries)}
    rows = [[entry["name"], *(text(entry["result"]) for text in shown.values())] for entry in entries]
    return f"**{title}**\n\n{_markdown(['', *shown], rows)}" if rows else ""


def _profile(content: dict[str, Any]) -> str:
    result = find(content, "profile", "training step")
    if result is None:
        return ""
    total = result["device_ms"]

    def share(milliseconds: float) -> str:
        return f"{100 * milliseconds / total:.1f} %" if total else "-"

    parts = sorted(result["parts"].items(), key=lambda item: -sum(item[1].values()))
    rows = [
        [part, f"{ms['forward_ms']:.2f}", f"{ms['backward_ms']:.2f}", share(ms["forward_ms"] + ms["backward_ms"])]
        for part, ms in parts
    ]
    operations = [
        [
            f"`{each['operation']}`",
            f"{each['ms']:.3f}",
            share(each["ms"]),
            f"`{_short(each['source'])}`" if each["source"] else "",
        ]
        for each in result["operations"][:10]
    ]
    return "\n\n".join(
        [
            f"**Profile of a training step** (batch {result['batch_size']}, {total:.1f} ms of device time per step; "
            "a fused operation counts towards one of its components)",
            _markdown(["component", "forward ms", "backward ms", "share"], rows),
            _markdown(["operation", "ms", "share", "source"], operations),
        ]
    )


def _short(source: str) -> str:
    return source.removeprefix("jit(train_step)/")[-80:]


def _failures(content: dict[str, Any]) -> str:
    failed = [entry for entry in content["entries"] if "failure" in entry]
    late = [f"{entry['section']}: {entry['name']}" for entry in failed if entry["failure"] == "not reached"]
    rows = [
        [f"{entry['section']}: {entry['name']}", entry["failure"], first_line(entry["message"]).replace("|", "/")]
        for entry in failed
        if entry["failure"] != "not reached"
    ]
    texts = [
        f"**Without a result**\n\n{_markdown(['measurement', 'outcome', 'message'], rows)}" if rows else "",
        textwrap.fill(f"Not reached before the time was up: {'; '.join(late)}.", 127) if late else "",
    ]
    return "\n\n".join(text for text in texts if text)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""
