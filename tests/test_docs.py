"""The snippets of the documentation run as they stand, each alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from timesformer_jax.pretrained import KINDS, WRITERS, ZOO

ROOT = Path(__file__).parent.parent


def snippets(text: str) -> dict[str, str]:
    """Section -> its Python code."""
    return {
        section.partition("\n")[0]: code
        for section in text.split("\n## ")[1:]
        for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    }


GUIDE, WEIGHTS = ((ROOT / "docs" / name).read_text() for name in ("use_in_your_project.md", "weights.md"))
OF_THE_GUIDE = snippets(GUIDE)
SNIPPETS = {**OF_THE_GUIDE, **snippets(WEIGHTS)}


@pytest.mark.parametrize("title", SNIPPETS)
def test_snippet(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(SNIPPETS[title], f"{title} (docs)", "exec"), names)
    if "losses" in names:  # it trains: then it learns
        assert names["losses"][-1] < 0.8 * names["losses"][0]


def test_every_section_has_its_snippet_and_its_link():
    sections = re.findall(r"^## (.*)$", GUIDE, flags=re.MULTILINE)
    assert [*OF_THE_GUIDE, "Which options for which machine"] == sections
    for text in (GUIDE, WEIGHTS):
        sections = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        anchors = re.findall(r"\(#(.*?)\)", text)
        assert anchors == [re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-") for title in sections]


def test_the_tables_of_weights_are_complete():
    """Every kind that can be read or written, and every published checkpoint with its figures."""
    for name in {*KINDS, *WRITERS}:
        assert name in WEIGHTS, name
    for name, row in ZOO.items():
        (line,) = [line for line in WEIGHTS.splitlines() if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[2] == f"{row.num_frames} x {row.image_size}"
        assert cells[4:6] == [str(row.top1), "" if row.top5 is None else str(row.top5)]
        assert ("fetches" in cells[6]) == (row.repository is not None)
        assert ("BGR" in cells[3]) == (row.preprocess.channel_order == "bgr")


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
