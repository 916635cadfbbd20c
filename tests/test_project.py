"""The changelog, the citation, the contributors' guide and the CI workflow."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from timesformer_jax.version import VERSION

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_changelog_lists_the_version_and_every_renamed_name():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.*?)\](?: - (\d{4}-\d\d-\d\d))?$", text, flags=re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == VERSION
    assert all(date for _, date in versions[1:])
    for path in [*(ROOT / "timesformer_jax").rglob("__init__.py"), *(ROOT / "input_pipeline").rglob("__init__.py")]:
        for call in re.findall(r"renamed\(.*?\{(.*?)\}", path.read_text(), flags=re.DOTALL):
            for old, new in re.findall(r'"(\w+)": "(\w+)"', call):
                assert f"| `{old}` | `{new}` |" in text, f"{old} of {path}"


def test_citation_matches_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["references"][0]["url"] in (ROOT / "README.md").read_text()


def test_contributing_names_existing_files():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 80
    quoted = re.findall(r"`([^`\n]+)`", text)
    paths = [name for name in quoted if re.fullmatch(r"\.?[\w-]+(/[\w.-]*)+|[\w.]+\.(py|md|cff)", name)]
    assert len(paths) > 20
    assert [name for name in paths if not (ROOT / name).exists()] == []
    code = {
        path: path.read_text()
        for room in ("timesformer_jax", "input_pipeline", "configs", "tests")
        for path in (ROOT / room).rglob("*.py")
    }
    for name in [name for name in quoted if re.fullmatch(r"[A-Z_]{4,}", name)]:
        assert any(re.search(rf"^{name}\b", each, flags=re.MULTILINE) for each in code.values()), name
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= make_targets()


def test_contributing_lists_the_steps_of_ci():
    steps = re.findall(r"^\s*(make [a-z-]+(?: ARGS=--\S+)?)", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    listed = re.findall(r"^\| `(make [^`]*)`.*\| [\d.]+ \|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert listed == steps


def test_workflow_runs_existing_targets_with_pinned_actions():
    assert {step["run"].split()[1] for step in STEPS if "run" in step} <= make_targets()
    assert [step["uses"] for step in STEPS if "uses" in step and not re.search(r"@v\d+$", step["uses"])] == []
    assert "secrets" not in (ROOT / ".github" / "workflows" / "test.yml").read_text()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_workflow_tests_every_supported_python(version: str):
    assert version in WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
