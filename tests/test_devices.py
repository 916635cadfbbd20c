"""The line that names the devices, on simulated machines."""

from pathlib import Path

import jax
import pytest

import timesformer_jax as tsf
from timesformer_jax import devices
from timesformer_jax.__main__ import main
from timesformer_jax.devices import Machine, name_devices

SMI = "| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda}  |"
NEW, OLD = SMI.format(driver="575.57.08", cuda="12.9"), SMI.format(driver="470.82.01", cuda="11.4")
NEWEST = SMI.format(driver="580.65.06", cuda="13.0")
JAXLIB = {"jaxlib": "0.10.2"}
GPU = {"driver_loaded": True, "gpu_files": True}


@pytest.mark.parametrize(
    ("found", "version", "line"),
    [
        ([("gpu", "NVIDIA H100 80GB HBM3")], "PJRT C API\ncuda 12090", "1 x NVIDIA H100 80GB HBM3, CUDA 12.9"),
        (
            [("gpu", "NVIDIA A100"), ("gpu", "NVIDIA A100"), ("gpu", "NVIDIA L4")],
            "PJRT C API\ncuda 13000",
            "2 x NVIDIA A100, 1 x NVIDIA L4, CUDA 13.0",
        ),
        ([("tpu", "TPU v5 lite")] * 8, "PJRT C API\nTFRT TPU v5 lite", "8 x TPU v5 lite"),
        ([("gpu", "AMD Instinct MI300X")], "PJRT C API\nrocm 60342", "1 x AMD Instinct MI300X"),
    ],
)
def test_accelerators_are_named(found: list, version: str, line: str):
    assert name_devices(found, version, look=None) == line  # nothing else is read


@pytest.mark.parametrize(
    ("machine", "line"),
    [
        (Machine(2, {}), "CPU, 2 cores: no GPU or TPU found"),
        (Machine(1, {}, packages=JAXLIB), "CPU, 1 core: no GPU or TPU found"),
        # The tools alone don't mean a GPU.
        (
            Machine(2, {}, smi="couldn't communicate with the NVIDIA driver", smi_failed=True),
            "CPU, 2 cores: no GPU or TPU found",
        ),
        # On purpose.
        (Machine(2, {"JAX_PLATFORMS": "cpu"}, smi=NEW, **GPU), "CPU, 2 cores (JAX_PLATFORMS='cpu')"),
        (Machine(2, {"CUDA_VISIBLE_DEVICES": ""}, smi=NEW, **GPU), "CPU, 2 cores (CUDA_VISIBLE_DEVICES='')"),
    ],
)
def test_cpu_is_named_with_the_reason(machine: Machine, line: str):
    assert name_devices([("cpu", "cpu")], "cpu", lambda: machine) == line


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"smi": NEW}, 'JAX has no CUDA plugin here. Install it: pip install "timesformer_jax[cuda12]"'),
        ({"smi": NEWEST}, 'JAX has no CUDA plugin here. Install it: pip install "timesformer_jax[cuda13]"'),
        ({}, 'JAX has no CUDA plugin here. Install it: pip install "timesformer_jax[cuda12]"'),
        (
            {"smi": OLD, "packages": {**JAXLIB, "jax-cuda12-plugin": "0.10.2"}},
            "its driver supports CUDA 11.4, and JAX needs 12: update it to 525 or newer, then: "
            'pip install "timesformer_jax[cuda12]"',
        ),
        (
            {"smi": NEW, "packages": {**JAXLIB, "jax-cuda13-plugin": "0.10.2"}},
            "its driver supports CUDA 12, and jax-cuda13-plugin needs CUDA 13. Install the other one: "
            'pip install "timesformer_jax[cuda12]"',
        ),
        (
            {"smi": NEW, "packages": {**JAXLIB, "jax-cuda12-plugin": "0.9.1"}},
            "jax-cuda12-plugin 0.9.1 doesn't match jaxlib 0.10.2. Install matching versions: "
            'pip install "timesformer_jax[cuda12]"',
        ),
        (
            {"smi": "Failed to initialize NVML: Driver/library version mismatch\n", "smi_failed": True},
            "its driver doesn't work (nvidia-smi: Failed to initialize NVML: Driver/library version mismatch)",
        ),
        (
            {"gpu_files": False},
            "its device files (/dev/nvidia0) are missing: only its driver is loaded. Start a container with --gpus=all, or ask "
            "the scheduler for a GPU",
        ),
        (
            {"smi": NEW, "packages": {**JAXLIB, "jax-cuda12-plugin": "0.10.2.post1"}},
            "JAX can't use it: Unknown backend cuda",
        ),
    ],
)
def test_unused_gpu_is_explained(found: dict, words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_cuda_error", lambda: "Unknown backend cuda")
    machine = Machine(4, {}, **{**GPU, "packages": JAXLIB, **found})
    line = name_devices([("cpu", "cpu")] * 2, "cpu", lambda: machine)
    assert line == f"CPU, 4 cores as 2 devices: an NVIDIA GPU is present, but {words}"


def test_missing_platform_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda': no such plugin")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setattr(devices, "look", lambda: Machine(2, {"JAX_PLATFORMS": "cuda"}, smi=NEW, **GPU))
    words = r"JAX_PLATFORMS='cuda': Unable to initialize backend 'cuda'.* An NVIDIA GPU is present, but JAX has no CUDA plugin"
    with pytest.raises(tsf.InputError, match=words):
        devices.describe_devices()


@pytest.mark.parametrize("job", ["predict", "explain", "features"])
def test_computing_jobs_name_the_devices_first(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = [] if job == "predict" else [f"--output={tmp_path / 'x.gif'}"]
    assert main([job, str(tmp_path / "x.mp4"), f"--checkpoint={tmp_path / 'none'}", *output]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == devices.describe_devices()
    assert lines[1].startswith("Error: ")


def test_current_machine_is_described():
    assert devices.describe_devices().startswith(("CPU, ", "1 x ", f"{len(jax.devices())} x "))
