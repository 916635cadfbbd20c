"""What importing the library loads, and which part may import which."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "tensorflow_datasets", "torch", "optax", "orbax", "av", "matplotlib", "sklearn", "clu", "tqdm")
HEAVY += ("PIL", "loky", "safetensors", "huggingface_hub", "transformers")


def test_the_library_loads_nothing_heavy():
    code = f"import sys, timesformer_jax; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_works_without_jaxtyping():
    code = (
        "import sys; sys.modules['jaxtyping'] = None; import timesformer_jax, timesformer_jax.video, timesformer_jax.training"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_the_library_alone_needs_jax_flax_and_numpy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [requirement.partition(">")[0] for requirement in project["dependencies"]]
    assert names == ["jax", "flax", "numpy"]
    assert set(project["optional-dependencies"]) == {
        "video",
        "pretrained",
        "train",
        "torch",
        "plots",
        "beam",
        "dev",
        "cuda",
        "tpu",
    }


def test_what_is_imported_is_pinned():
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for file in ("requirements.txt", "tests/parity/requirements.txt")
        for line in (ROOT / file).read_text().splitlines()
    }
    packages = {
        "absl": "absl-py",
        "sklearn": "scikit-learn",
        "tensorflow": "tensorflow-cpu",
        "orbax": "orbax-checkpoint",
        "PIL": "pillow",
    }
    ours = {"timesformer_jax", "input_pipeline", "experiment", "configs", "main", "tests", "benchmarks"}
    for path in ROOT.glob("**/*.py"):
        if ".venv" in path.parts:
            continue
        peers = {"torch", "transformers"} if path.parent.name in ("benchmarks", "parity") else set()
        peers |= {"torch"} if path.name == "formats.py" else set()  # optional, and only when such a file is read
        assert imports(path) & {"torch", "transformers"} <= peers, path
        for name in {name.partition(".")[0] for name in imports(path)} - ours - sys.stdlib_module_names:
            assert packages.get(name, name).lower().replace("_", "-") in pinned, f"{path} imports {name}"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.add(str(node.module))
    return names


GROUND = {f"timesformer_jax.{name}" for name in ("_typing", "devices", "errors", "interpolation", "labels", "preemption")}

MAY_IMPORT = {  # room -> the rooms of ours that it may import, besides itself and GROUND
    "timesformer_jax/modeling": set(),
    "timesformer_jax/video": set(),
    "timesformer_jax/datasets": {"timesformer_jax.video"},
    "timesformer_jax/pretrained": {"timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/explain": {"timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/cost.py": {"timesformer_jax.modeling"},
    "timesformer_jax/features": {"timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/training": {"timesformer_jax.modeling"},
    "timesformer_jax/jobs": {
        "timesformer_jax.modeling",
        "timesformer_jax.video",
        "timesformer_jax.datasets",
        "timesformer_jax.explain",
        "timesformer_jax.pretrained",
        "timesformer_jax.cost",
        "timesformer_jax.features",
    },
    "timesformer_jax/evaluation": {"timesformer_jax.modeling", "timesformer_jax.training"},
    "input_pipeline": {"timesformer_jax.video", "timesformer_jax.datasets"},
    "experiment": {"timesformer_jax", "input_pipeline"},
    "configs": set(),
}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_who_may_import_whom(room: str):
    here = room.removesuffix(".py").replace("/", ".")
    for path in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
        for name in imports(path):
            if name.partition(".")[0] in ("timesformer_jax", "input_pipeline", "experiment", "configs", "main"):
                allowed = {here, *GROUND, *MAY_IMPORT[room]}
                assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports {name}"


def test_every_room_has_its_rule():
    rooms = {f"timesformer_jax/{path.parent.name}" for path in (ROOT / "timesformer_jax").glob("*/__init__.py")}
    assert rooms <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("tensorflow", ["input_pipeline/_tensorflow.py"]),
        ("tensorflow_datasets", ["input_pipeline/_tensorflow.py"]),
        ("torch", ["timesformer_jax/pretrained/formats.py"]),
        ("safetensors", ["timesformer_jax/pretrained/formats.py"]),
        ("huggingface_hub", ["timesformer_jax/pretrained/zoo.py"]),
        (
            "matplotlib",
            [
                "input_pipeline/contact_sheet.py",
                "timesformer_jax/evaluation/figures.py",
                "timesformer_jax/explain/drawing.py",
                "timesformer_jax/explain/embedding.py",
                "timesformer_jax/jobs/cost.py",
            ],
        ),
        ("sklearn", ["input_pipeline/moving_digits.py", "timesformer_jax/explain/embedding.py"]),
        (
            "av",
            ["timesformer_jax/explain/drawing.py", "timesformer_jax/video/decoding.py", "timesformer_jax/video/encoding.py"],
        ),
        ("PIL", ["timesformer_jax/explain/drawing.py", "timesformer_jax/video/encoding.py"]),
        ("loky", ["timesformer_jax/datasets/parallel.py"]),
        ("orbax", ["timesformer_jax/pretrained/own.py", "timesformer_jax/training/checkpoints.py"]),
    ],
)
def test_heavy_modules_have_one_place(module: str, where: list[str]):
    rooms = ("timesformer_jax", "input_pipeline", "experiment")
    files = [*(path for room in rooms for path in ROOT.glob(f"{room}/**/*.py")), ROOT / "main.py"]
    importing = [path for path in files if any(name.partition(".")[0] == module for name in imports(path))]
    assert sorted(path.relative_to(ROOT).as_posix() for path in importing) == where
