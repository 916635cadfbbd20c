"""The API reference has every public name."""

import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
FOLDERS = ("timesformer_jax", "timesformer_jax/*", "input_pipeline")
INITS = [init for folder in FOLDERS for init in ROOT.glob(f"{folder}/__init__.py")]
ROOMS = [".".join(init.parent.relative_to(ROOT).parts) for init in INITS if "\n__all__ = " in init.read_text()]


def documented() -> list[str]:
    return [name for page in sorted(PAGES.glob("*.md")) for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


def resolve(path: str) -> Any:
    room, _, name = path.rpartition(".")
    return getattr(importlib.import_module(room), name)


def test_reference_lists_every_public_name_once():
    """A name that several rooms export is described in one of them."""
    paths = documented()
    assert len(paths) == len(set(paths))
    shadowed = [path for path in paths if (ROOT / path.replace(".", "/")).with_suffix(".py").exists()]
    assert not shadowed, f"the site describes the modules of these names: give the paths in them: {shadowed}"
    values = {path: resolve(path) for path in paths}
    for room in ROOMS:
        names = importlib.import_module(room).__all__
        for name in names:
            value = resolve(f"{room}.{name}")
            found = [path for path in paths if path.endswith(f".{name}") and values[path] is value]
            described = len(found) == 1 or f"{room}.{name}" in ROOMS  # `timesformer_jax.explain` is a room
            assert described, f"docs/reference describes {room}.{name} {len(found)} times"
        private = [path for path in paths if path.rpartition(".")[0] == room and path.rpartition(".")[2] not in names]
        assert not private, f"docs/reference describes what {room}.__all__ doesn't have: {private}"


def test_navigation_lists_every_page():
    """docs/ and the site's navigation have the same pages."""
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text())) == sorted(pages)
