"""Packages that importing the library loads, and the import rules between rooms."""

import ast
import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "tensorflow_datasets", "torch", "optax", "orbax", "av", "matplotlib", "sklearn", "clu", "tqdm")
HEAVY += ("PIL", "loky", "safetensors", "huggingface_hub", "transformers", "dm_pix", "grain", "onnx", "onnxruntime", "jax2onnx")
HEAVY += ("gradio", "fastapi")


def test_library_import_loads_no_heavy_packages():
    code = f"import sys, timesformer_jax; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("from timesformer_jax.training import TrainState, make_mesh, make_optimizer, make_train_step", {"optax"}),
        ("import timesformer_jax.datasets.storing", {"google_crc32c", "av"}),  # loaded by worker processes
        ("from timesformer_jax.augment import PixelOptions, mix_clips, prepare_training", {"dm_pix"}),
        ("from timesformer_jax.datasets import read_video_folder; from timesformer_jax.video import ClipSource", set()),
    ],
)
def test_training_step_needs_few_packages(statement: str, needs: set[str]):
    """Other projects build their own steps on these modules, without Orbax or tqdm."""
    packages = {*HEAVY, "etils"} - needs
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(packages)})); {statement}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_library_works_without_jaxtyping():
    code = (
        "import sys; sys.modules['jaxtyping'] = None; import timesformer_jax, timesformer_jax.video, timesformer_jax.training"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_library_requires_only_jax_flax_and_numpy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [Requirement(text).name for text in project["dependencies"]] == ["jax", "flax", "numpy"]
    assert set(project["optional-dependencies"]) == {
        "video",
        "pretrained",
        "augment",
        "train",
        "onnx",
        "torch",
        "plots",
        "app",
        "beam",
        "dev",
        "cuda",
        "cuda12",
        "cuda13",
        "tpu",
    }


def test_pinned_versions_are_within_the_project_bounds():
    """Every dependency has an upper bound, and the pins for each Python are within the bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    allowed = [Requirement(text) for text in (*project["dependencies"], *extras)]
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = [Requirement(line) for line in lines if line]
    for python, machine in itertools.product(("3.11", "3.12", "3.13"), ("x86_64", "arm64")):
        where = {"python_version": python, "platform_machine": machine}

        def holds(requirement: Requirement, where: dict[str, str] = where) -> bool:
            return requirement.marker is None or requirement.marker.evaluate(where)

        here = {canonical(pin.name): next(iter(pin.specifier)).version for pin in pinned if holds(pin)}
        assert len(here) == sum(map(holds, pinned)), "one pin for a package"
        for requirement in filter(holds, allowed):
            if requirement.name == "timesformer_jax":
                continue
            assert any(bound.operator == "<" for bound in requirement.specifier), f"{requirement} has no upper bound"
            version = here.get(canonical(requirement.name))
            assert version or requirement.name in ("torch", "apache-beam", "mlcroissant", "gradio"), (
                f"{requirement} is not pinned"
            )
            assert version is None or requirement.specifier.contains(version), f"{requirement}, but {version} is tested"


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


OWN_ENVIRONMENTS = ("tests/parity", "tests/browser")
"""Folders of tests with separate requirements."""


def test_every_imported_package_is_pinned():
    pinned = {
        canonical(line.partition("==")[0])
        for file in ("requirements.txt", *(f"{room}/requirements.txt" for room in ("docs", "examples", *OWN_ENVIRONMENTS)))
        for line in (ROOT / file).read_text().splitlines()
    }
    packages = {
        "absl": "absl-py",
        "griffe": "griffelib",
        "sklearn": "scikit-learn",
        "tensorflow": "tensorflow-cpu",
        "orbax": "orbax-checkpoint",
        "PIL": "pillow",
        "yaml": "pyyaml",
    }
    ours = {"timesformer_jax", "input_pipeline", "experiment", "configs", "main", "tests", "benchmarks"}
    generated = {"build", "dist", "runs", "site"}
    rooms = [room for room in ROOT.iterdir() if room.is_dir() and not room.name.startswith(".") and room.name not in generated]
    for path in [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]:
        peers = (
            {"torch", "transformers"} if path.parent.name in ("benchmarks", "contenders", "accelerator", "parity") else set()
        )
        peers |= {"torch"} if path.name == "tensor_files.py" else set()  # optional, imported only if such a file is read
        assert imports(path) & {"torch", "transformers"} <= peers, path
        for name in {name.partition(".")[0] for name in imports(path)} - ours - sys.stdlib_module_names:
            assert canonical(packages.get(name, name)) in pinned, f"{path} imports {name}"


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, including inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.add(str(node.module))
    return names


GROUND = {
    f"timesformer_jax.{name}"
    for name in (
        *("_typing", "atomic_write", "checks", "devices", "digests", "errors", "extras", "interpolation", "labels", "orbax_io"),
        *("os_errors", "peers", "preemption", "printable", "processes", "progress", "quiet_orbax", "renamed", "run_lock"),
        *("palette", "plotting", "spacing", "state_files", "version"),
    )
}

MAY_IMPORT = {  # maps a room to the rooms that it may import besides itself and GROUND
    "timesformer_jax/modeling": set(),
    "timesformer_jax/cnn3d": set(),
    "timesformer_jax/video": set(),
    "timesformer_jax/datasets": {"timesformer_jax.video"},
    "timesformer_jax/pretrained": {"timesformer_jax.cnn3d", "timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/explain": {"timesformer_jax.cnn3d", "timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/augment": {"timesformer_jax.video"},
    "timesformer_jax/architectures.py": {"timesformer_jax.cnn3d", "timesformer_jax.modeling"},
    "timesformer_jax/variants.py": {"timesformer_jax.cnn3d", "timesformer_jax.modeling"},
    "timesformer_jax/cost.py": {"timesformer_jax.cnn3d", "timesformer_jax.modeling", "timesformer_jax.variants"},
    "timesformer_jax/features": {"timesformer_jax.modeling", "timesformer_jax.video"},
    "timesformer_jax/training": {"timesformer_jax.modeling"},
    "timesformer_jax/planning": {
        "timesformer_jax.architectures",
        "timesformer_jax.augment",
        "timesformer_jax.cost",
        "timesformer_jax.modeling",
        "timesformer_jax.training",
    },
    "timesformer_jax/jobs": {
        "timesformer_jax.app",
        "timesformer_jax.cnn3d",
        "timesformer_jax.modeling",
        "timesformer_jax.video",
        "timesformer_jax.datasets",
        "timesformer_jax.explain",
        "timesformer_jax.pretrained",
        "timesformer_jax.cost",
        "timesformer_jax.features",
        "timesformer_jax.variants",
    },
    "timesformer_jax/app": {
        "timesformer_jax.cnn3d",
        "timesformer_jax.datasets",
        "timesformer_jax.explain",
        "timesformer_jax.palette",
        "timesformer_jax.pretrained",
        "timesformer_jax.video",
    },
    "timesformer_jax/evaluation": {"timesformer_jax.modeling", "timesformer_jax.training"},
    "input_pipeline": {"timesformer_jax.augment", "timesformer_jax.video", "timesformer_jax.datasets"},
    "experiment": {"timesformer_jax", "input_pipeline", "configs"},
    "configs": {"timesformer_jax.augment", "timesformer_jax.cnn3d", "timesformer_jax.modeling", "timesformer_jax.video"},
}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_follow_the_room_rules(room: str):
    here = room.removesuffix(".py").replace("/", ".")
    for path in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
        for name in imports(path):
            if name.partition(".")[0] in ("timesformer_jax", "input_pipeline", "experiment", "configs", "main"):
                allowed = {here, *GROUND, *MAY_IMPORT[room]}
                assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports {name}"


def test_every_room_has_an_import_rule():
    rooms = {f"timesformer_jax/{path.parent.name}" for path in (ROOT / "timesformer_jax").glob("*/__init__.py")}
    assert rooms <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("tensorflow", ["input_pipeline/_tensorflow.py"]),
        ("tensorflow_datasets", ["input_pipeline/_tensorflow.py"]),
        ("torch", ["timesformer_jax/pretrained/tensor_files.py"]),
        ("safetensors", ["timesformer_jax/pretrained/tensor_files.py"]),
        ("huggingface_hub", ["timesformer_jax/pretrained/zoo.py"]),
        (
            "matplotlib",
            [
                "timesformer_jax/explain/drawing.py",
                "timesformer_jax/explain/embedding.py",
                "timesformer_jax/explain/timeline_plot.py",
                "timesformer_jax/plotting.py",
            ],
        ),
        ("sklearn", ["timesformer_jax/datasets/drawn_digits.py", "timesformer_jax/explain/embedding.py"]),
        (
            "av",
            [
                "timesformer_jax/explain/drawing.py",
                "timesformer_jax/explain/encoders.py",
                "timesformer_jax/explain/soundtrack.py",
                "timesformer_jax/video/containers.py",
                "timesformer_jax/video/decoding.py",
                "timesformer_jax/video/encoding.py",
                "timesformer_jax/video/orientation.py",
                "timesformer_jax/video/sound.py",
            ],
        ),
        (
            "PIL",
            [
                "timesformer_jax/evaluation/pictures.py",
                "timesformer_jax/explain/caption.py",
                "timesformer_jax/explain/drawing.py",
                "timesformer_jax/video/encoding.py",
            ],
        ),
        ("loky", ["timesformer_jax/datasets/parallel.py"]),
        ("dm_pix", ["timesformer_jax/augment/_dm_pix.py"]),
        ("xxhash", ["timesformer_jax/digests.py"]),
        ("google_crc32c", ["timesformer_jax/datasets/tfrecords.py"]),
        ("orbax", ["timesformer_jax/orbax_io.py", "timesformer_jax/training/checkpoints.py"]),
    ],
)
def test_heavy_modules_are_imported_in_one_place(module: str, where: list[str]):
    rooms = ("timesformer_jax", "input_pipeline", "experiment")
    files = [*(path for room in rooms for path in ROOT.glob(f"{room}/**/*.py")), ROOT / "main.py"]
    importing = [path for path in files if any(name.partition(".")[0] == module for name in imports(path))]
    assert sorted(path.relative_to(ROOT).as_posix() for path in importing) == where
