"""Banned phrases are absent from tracked text."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLEAN = (
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "docs", "examples"),
    *("main.py", "Makefile", "MANIFEST.in", "pyproject.toml", "requirements.txt", "zensical.toml", ".ci", ".github"),
    *("benchmarks", "configs", "experiment", "input_pipeline", "launch", "tests", "timesformer_jax"),
)
"""All tracked text but the license."""

BINARY = {".npz", ".png", ".pyc"}

BANNED = {
    r"\b(go|goes|going|went) on\b": "continue, resume",
    r"\b(told|tells)\b": "detected from, reports, lists, receives",
    r"\b(Raises|raises) `?\w+`? where\b": "Raises ... if",
    r"\bwhoever\b": "callers, users",
    r"\b(has|have|had) (no|a) say\b": "is excluded, is ignored",
    r"\bby heart\b": "overfit",
    r"\b(left|leave|leaves|leaving) (away|aside|out)\b": "skipped, dropped, excluded",
    r"\bof (its|their) own\b": "its own, per",
    r"\bso many\b": "the number of",
    r"\b(stand|stands|standing|lie|lies|lying) beside\b": "accompanies, next to",
    r"\bwhat (is|was) said\b": "predicted",
    r"\b(in|with) (a|one) sentence\b": "with a clear error",
    r"\b(nobody|anybody) (shall |can )?sees?\b": "masked",
    r"\bone of several labels\b": "multi-label",
}
"""Phrase -> what to write instead."""


def texts() -> Iterator[tuple[str, str]]:
    """(path, content) of every tracked text, except for this file, which quotes the phrases."""
    for room in CLEAN:
        path = ROOT / room
        assert path.exists(), room
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix not in BINARY and file != Path(__file__):
                yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def found_in(text: str) -> list[str]:
    """Each banned phrase with the words around it and the remedy; line breaks count as spaces."""
    text = " ".join(text.split())
    return [
        f"...{text[max(0, match.start() - 30) : match.end() + 30]}... (write: {instead})"
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


def test_no_banned_phrase():
    found = []
    for path, text in texts():
        found += [f"{path}: {line}" for line in found_in(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "The run goes\non from there.",
        "A frame is left out.",
        "Raises `InputError` where it is 0.",
        "Whoever calls it",
        "so many",
    ],
)
def test_banned_phrases_are_found(text: str):
    assert len(found_in(text)) == 1
