"""The documentation's snippets and commands run, and its tables and links are correct."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timesformer_jax as tsf
from tests.support import random_variables
from timesformer_jax.__main__ import main
from timesformer_jax.pretrained import CONVNET_FORMATS, FORMATS, WRITERS, ZOO
from timesformer_jax.pretrained.model_families import families_table
from timesformer_jax.pretrained.writer_limits import TARGETS

ROOT = Path(__file__).parent.parent

GUIDES = ("index", "predict", "model", "explain", "features")
SMALLER_MODEL = {"224": "32", "768": "24", "depth=12": "depth=1", "num_heads=12": "num_heads=2"}
"""Changes of a snippet's numbers, for a model that a test can afford."""


def snippets(text: str) -> dict[str, str]:
    """Return the Python code of each section."""
    return {
        section.partition("\n")[0]: code
        for section in text.split("\n## ")[1:]
        for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    }


GUIDE, WEIGHTS = ((ROOT / "docs" / name).read_text() for name in ("use_in_your_project.md", "weights.md"))
OF_THE_GUIDE = snippets(GUIDE)
SNIPPETS = {**OF_THE_GUIDE, **snippets(WEIGHTS)}
WITH_TORCH = "Clips through PyTorch loaders"  # tests/parity runs it


@pytest.mark.slow_cases("(Serving|In an NNX project|Clips for your own training loop)")
@pytest.mark.parametrize("title", [title for title in SNIPPETS if title != WITH_TORCH])
def test_snippet_runs(title: str, made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("videos").symlink_to(made_clips)
    names: dict[str, Any] = {}
    exec(compile(SNIPPETS[title], f"{title} (docs)", "exec"), names)
    if "losses" in names:  # training snippets must also learn
        assert names["losses"][-1] < 0.8 * names["losses"][0]


DEPLOY = (ROOT / "docs" / "deploy.md").read_text()


def blocks(title: str) -> str:
    """Return all Python code of a section of docs/deploy.md."""
    (text,) = [text for text in DEPLOY.split("\n## ") if text.startswith(f"{title}\n")]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, made_clips: Path) -> Path:
    """A folder with the files that docs/deploy.md names."""
    folder = tmp_path_factory.mktemp("deployed")
    model = tsf.TimeSformer(3, image_size=32, patch_size=16, num_frames=4, embed_dim=24, depth=1, num_heads=2)
    preprocess = tsf.Preprocess(
        num_frames=4, crop_size=32, sampling_rate=7.0, short_side=37, mean=(0.1, 0.2, 0.3), channel_order="bgr"
    )
    tsf.save_huggingface(
        tsf.Pretrained(model, random_variables(model)["params"], preprocess, ("ä", "b", "c")), folder / "FOLDER"
    )
    assert main(["convert", str(folder / "FOLDER"), str(folder / "model.onnx")]) == 0
    (folder / "clip.mp4").symlink_to(made_clips / "back" / "2.mp4")
    return folder


@pytest.mark.parametrize("title", ["ONNX Runtime", "OpenVINO", "StableHLO"])
def test_deployed_model_has_the_same_logits(
    title: str, deployed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if title == "OpenVINO":
        pytest.importorskip("openvino", reason="OpenVINO has no wheels for this platform")
    monkeypatch.chdir(deployed)
    names: dict[str, Any] = {}
    for code in (blocks("Prepare a clip"), blocks(title)):
        exec(compile(code, f"{title} (docs)", "exec"), names)
    pretrained = tsf.load("FOLDER")
    expected = np.asarray(pretrained(pretrained.preprocess("clip.mp4", num_crops=1)))
    np.testing.assert_allclose(names["logits"], expected, atol=1e-3)
    assert capsys.readouterr().out.splitlines()[-1] == pretrained.label(int(expected.argmax()))


def section(title: str) -> str:
    """Return a section of the README."""
    text = re.search(rf"^## {title}\n(.*?)(?=^## )", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert text is not None, title
    return text[1]


def commands(text: str) -> list[str]:
    """Return the commands in a text, one line each, without comments."""
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("  #")[0].split()) for line in lines if re.match("(python|timesformer) ", line)]


SMALLER = {
    "data.val_fraction": "0.3",
    "train.batch_size": "4",
    "train.num_epochs": "1.0",
    "eval.batch_size": "8",
    "report.num_videos": "1",
}
"""Config fields that shorten training; the test also shrinks the model of the plain config."""


@pytest.mark.slow
def test_commands_run_in_order(tmp_path: Path, made_clips: Path, data_dir: str):
    """The guides' commands, which include the README's, predict, fine-tune, evaluate and report.

    They run as printed, except for file names and shorter training.
    """
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=1, num_heads=2)
    preprocess = tsf.Preprocess(num_frames=4, crop_size=32)
    published = tsf.Pretrained(model, random_variables(model)["params"], preprocess, ("across", "down", "back"))
    tsf.save_huggingface(published, tmp_path / "published")
    names = {
        "clip.mp4": str(made_clips / "down" / "0.mp4"),
        "long.mp4": str(made_clips / "down" / "1.mp4"),
        "timeline.png": str(tmp_path / "timeline.png"),
        "timesformer-base-k400": str(tmp_path / "published"),
        "FOLDER": str(made_clips),
        "runs/": f"{tmp_path}/runs/",
    }
    programs = {"python": [sys.executable], "timesformer": [sys.executable, "-m", "timesformer_jax"]}
    found = [*commands((ROOT / "docs/predict.md").read_text()), *commands((ROOT / "docs/finetune.md").read_text())]
    of_readme = [*commands(section("Predict")), *commands(section("Fine-tune on your own videos"))]
    assert of_readme == [found[0], *found[2:-1]]  # without the plot, and the toy at the end
    modes = [re.search(r"--mode=(\w+)|$", line)[1] for line in found]  # pyright: ignore[reportOptionalSubscript]
    assert [line.split()[0] for line in found] == ["timesformer"] * 2 + ["python"] * 3 + ["timesformer", "python"]
    assert modes == [None, None, None, "eval", "report", None, None]
    for line in found:
        for theirs, ours in names.items():
            line = line.replace(theirs, ours)
        first, *arguments = line.split()
        if first == "python":
            arguments += [f"--config.{field}={value}" for field, value in SMALLER.items()]
            small = f"--config.init_from={names['timesformer-base-k400']}" if "finetune" in line else "--config.model.depth=1"
            arguments += [f"--config.data.data_dir={data_dir}", small]
        done = subprocess.run([*programs[first], *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "timeline.png").exists()
    results = json.loads((tmp_path / "runs" / "mine" / "results.json").read_text())
    assert (results["model"]["embed_dim"], results["num_videos"], results.get("note")) == (24, 3, None)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    toy = json.loads((tmp_path / "runs" / "toy" / "results.json").read_text())
    assert (toy["model"]["embed_dim"], toy["note"][:5]) == (128, "A toy")


def test_every_section_has_a_snippet_and_a_link():
    sections = re.findall(r"^## (.*)$", GUIDE, flags=re.MULTILINE)
    assert [*OF_THE_GUIDE, "Choose options for your machine"] == sections
    for text in (GUIDE, WEIGHTS):
        sections = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        anchors = re.findall(r"\(#(.*?)\)", text)
        assert anchors == [re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-") for title in sections]


def test_limits_table_matches_the_writers():
    """docs/weights.md lists the supported values of each field by format."""
    fields = dict.fromkeys(field for target in TARGETS.values() for field in target.values)
    rows = [f"| field | {' | '.join(f'`{name}`' for name in TARGETS)} |", f"|---|{'---|' * len(TARGETS)}"]
    for field in fields:
        cells = [", ".join(str(value) for value in TARGETS[name].values.get(field, ("any",))) for name in TARGETS]
        rows.append(f"| `{field}` | {' | '.join(cells)} |")
    cells = ["square" if TARGETS[name].square else "any" for name in TARGETS]
    rows.append(f"| `image_size` | {' | '.join(cells)} |")
    table = "\n".join(rows)
    assert table in WEIGHTS, f"docs/weights.md should have:\n{table}"


def test_weights_tables_are_complete():
    """They list every readable or writable format, and every published checkpoint with its figures."""
    for name in {*FORMATS, *CONVNET_FORMATS, *WRITERS}:
        assert name in WEIGHTS, name
    assert families_table() in WEIGHTS, f"the table of families should be\n{families_table()}"
    for name, row in ZOO.items():
        (line,) = [line for line in WEIGHTS.splitlines() if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[2] == f"{row.num_frames} x {row.image_size}"
        assert cells[4:6] == [str(row.top1), "" if row.top5 is None else str(row.top5)]
        assert ("fetches" in cells[6]) == (row.repository is not None)
        assert ("BGR" in cells[3]) == (row.preprocess.channel_order == "bgr")


def test_map_of_the_code_names_every_part_of_the_library():
    """docs/code.md lists the folders and single modules of the package, and none that is gone."""
    places = [line.split(" | ")[0] for line in (ROOT / "docs/code.md").read_text().splitlines() if line.startswith("| `")]
    listed = [
        name.removeprefix("timesformer_jax/").rstrip("/")
        for cell in places
        if cell.startswith("| `timesformer_jax/")
        for name in re.findall(r"`([^`]+)`", cell)
    ]
    parts = [path.name for path in (ROOT / "timesformer_jax").iterdir() if path.is_dir() or path.suffix == ".py"]
    assert sorted(listed) == sorted(part for part in parts if not part.startswith("__"))


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name)
def test_links_resolve(path: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_snippets_of_readme_and_guides_run(made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With models of a hundredth of the size. One other loads published weights, from the network; one reads a folder."""
    pages = {name: (ROOT / name).read_text() for name in ("README.md", *(f"docs/{page}.md" for page in GUIDES))}
    found = {name: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for name, text in pages.items()}
    loading, small = found["README.md"]
    assert 'tsf.load("timesformer-base-k400")' in loading
    again, windows = found["docs/predict.md"]
    assert found["docs/index.md"] == [again] == [loading]
    (large, convolutional), (explaining, drawing), (reading,) = (
        found[f"docs/{page}.md"] for page in ("model", "explain", "features")
    )
    assert "read_features(" in reading
    for code, changes in ((small, {"-base": "-nano", "224": "32"}), (large, SMALLER_MODEL)):
        for theirs, ours in changes.items():
            assert theirs in code
            code = code.replace(theirs, ours)
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["logits"].shape == (1, names["model"].num_classes)
    assert names["features"].cls.shape == (1, 24)
    assert names["features"].patches.shape == (1, 8, 2, 2, 24)
    given = {"params": names["variables"]["params"], "labels": np.array([3]), "frames": np.zeros((8, 32, 32, 3), np.uint8)}
    exec(explaining, names | given)
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "long.mp4"):
        shutil.copy(made_clips / "across" / "0.mp4", name)
    nano = tsf.create("timesformer-nano", num_classes=18)
    pretrained = tsf.Pretrained(nano, random_variables(nano)["params"], tsf.Preprocess(num_frames=2, crop_size=16))
    assert "stride=2.0" in windows
    for code in (windows.replace("2.0", "0.5"), drawing):
        exec(code, {"tsf": tsf, "pretrained": pretrained})
    assert Path("drawn.mp4").stat().st_size > 0
    for theirs, ours in {"174": "174, width=8, depths=(1, 1, 1, 1)", "(1, 32, 224, 224, 3)": "(1, 8, 32, 32, 3)"}.items():
        assert theirs in convolutional
        convolutional = convolutional.replace(theirs, ours)
    exec(convolutional, names)
    assert names["logits"].shape == (1, 174)
