"""The notebooks in examples/, as they are committed; `make notebooks` executes them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MAX_BYTES = 300_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_readme_lists_every_notebook():
    listed = re.findall(r"\]\(([\w./-]+\.ipynb)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_outputs_of_one_clean_run(path: Path):
    """Executed from top to bottom, without errors, warnings or paths of the machine."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert path.stat().st_size < MAX_BYTES
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    texts = ["".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs]
    assert [text for text in texts if re.search(r"(?<![\w.])/\w+/\w", text) or str(Path.home()) in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_links_resolve(path: Path):
    for cell in json.loads(path.read_text())["cells"]:
        for target in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""):
            assert target.startswith("https://") or (EXAMPLES / target).exists(), target
