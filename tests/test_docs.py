"""The snippets of the documentation run as they stand, each alone."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "use_in_your_project.md").read_text()
SNIPPETS = {
    section.partition("\n")[0]: code
    for section in GUIDE.split("\n## ")[1:]
    for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
}


@pytest.mark.parametrize("title", SNIPPETS)
def test_snippet(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(SNIPPETS[title], f"{title} (docs/use_in_your_project.md)", "exec"), names)
    if "losses" in names:  # it trains: then it learns
        assert names["losses"][-1] < 0.8 * names["losses"][0]


def test_every_section_has_its_snippet_and_its_link():
    sections = re.findall(r"^## (.*)$", GUIDE, flags=re.MULTILINE)
    assert [*SNIPPETS, "Which options for which machine"] == sections
    anchors = re.findall(r"\(#(.*?)\)", GUIDE)
    assert anchors == [re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-") for title in sections]


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
