"""benchmarks/gpu.py: its workers, its results file, its page."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu
from benchmarks.accelerator import attention, page, profile, running
from benchmarks.accelerator.compiling import SUSPENDED, Compilers, quiet
from benchmarks.accelerator.record import FAILURES, Record, read_record
from benchmarks.accelerator.running import Run, Task, Worker, merged
from benchmarks.accelerator.sections import SECTIONS
from benchmarks.accelerator.sizes import SIZES
from tests.runs import ROOT

TINY = ["--size=tiny", "--minutes=9"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "benchmarks/gpu.py", *TINY, *arguments]


def document(folder: Path) -> Path:
    path = folder / "performance.md"
    path.write_text(f"# Speed\n\n{page.BEGIN}\nold\n{page.END}\n\n## More\n")
    return path


def test_two_sections_are_measured_and_drawn(tmp_path: Path):
    output = tmp_path / "new" / "cpu.json"
    subprocess.run(command(f"--output={output}", "--only=forward,card"), cwd=ROOT, check=True, capture_output=True)
    content = read_record(output)
    assert content["finished"]
    assert content["sections"] == ["card", "forward"]
    results = {(entry["section"], entry["name"]): entry for entry in content["entries"]}
    assert results["card", "device"]["result"]["platform"] == "cpu"
    forward = results["forward", "batch 2"]["result"]
    assert forward["clips_per_second"] == pytest.approx(2 / forward["seconds"])
    product = results["card", "matrix product, bfloat16"]["result"]["teraflops"]
    assert forward["mfu_of_matrix_product"] == pytest.approx(forward["teraflops"] / product)
    assert results["forward", "batch 2, attention cudnn"]["failure"] == "failed"  # there is no NVIDIA GPU

    target = document(tmp_path)
    assert gpu.main(["--page", str(output), f"--document={target}"]) == 0
    text = target.read_text()
    assert text.startswith("# Speed\n")
    assert text.endswith("\n## More\n")
    assert "old" not in text
    assert f"| batch 2 | {1e3 * forward['seconds']:,.2f} |" in text
    assert "| forward: batch 2, attention cudnn | failed | InputError:" in text


def test_documented_page_matches_the_results():
    written = (ROOT / "docs/performance.md").read_text().partition(page.BEGIN)[2].partition(page.END)[0]
    assert written.strip() == page.render(sorted(page.RESULTS.glob("*.json")))


def test_page_states_that_results_are_missing(tmp_path: Path):
    target = document(tmp_path)
    page.write_page([], target)
    assert target.read_text() == f"# Speed\n\n{page.BEGIN}\n\n{page.NOT_YET}\n\n{page.END}\n\n## More\n"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "entries": []}'])
def test_file_without_results_is_rejected(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.json").write_text(content)
    target = document(tmp_path)
    assert gpu.main(["--page", str(tmp_path / "x.json"), f"--document={target}"]) == 1
    assert "x.json is not a results file" in capsys.readouterr().err
    assert "old" in target.read_text()


def test_unknown_section_is_rejected(capsys: pytest.CaptureFixture[str]):
    assert gpu.main(["--output=never.json", "--only=card,trian"]) == 1
    assert "no section trian; choose from card, forward" in capsys.readouterr().err


WORKER = """
import json, os, sys, time
sign = {sign!r}
if "--unknown_flag" in os.environ.get("XLA_FLAGS", ""):
    sys.exit("Unknown flag in XLA_FLAGS")
print("noise on stdout")
print(sign + json.dumps({{"result": {{}}}}), flush=True)
for line in sys.stdin:
    section, name = json.loads(line)
    if name == "crashes":
        print("the last words", file=sys.stderr)
        os._exit(3)
    if name == "hangs":
        time.sleep(60)
    print(sign + json.dumps({{"result": {{"process": os.getpid()}}}}), flush=True)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Measure tasks of these names with a worker that behaves as each name says."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(sign=running.SIGN))

    def start(environment: Mapping[str, str]) -> Worker:
        return Worker([sys.executable, str(script)], environment)

    def measure(
        *names: str, minutes: float = 1.0, environment: dict[str, str] | None = None, compilers: int = 0
    ) -> list[dict[str, Any]]:
        record = Record(tmp_path / "results.json", {})
        tasks = [Task("section", name, 1.0 if name == "hangs" else 30.0) for name in names]
        ahead = [(task, environment or {}) for task in tasks]
        file = str(tmp_path / "compilers.json")
        with Compilers(start, ahead, processes=compilers, groups_file=file) as pool:
            Run(record, minutes=minutes, start=start).measure(tasks, environment or {}, pool)
        return read_record(tmp_path / "results.json")["entries"]

    return measure


def test_crashed_or_hung_measurement_affects_no_other(run: Callable[..., list[dict[str, Any]]]):
    entries = run("a", "crashes", "b", "hangs", "c", "d")
    outcomes = {entry["name"]: entry for entry in entries}
    assert list(outcomes) == ["a", "crashes", "b", "hangs", "c", "d"]
    assert [name for name, entry in outcomes.items() if "result" in entry] == ["a", "b", "c", "d"]
    assert outcomes["crashes"]["failure"] == "failed"
    assert outcomes["crashes"]["message"] == "the process ended with code 3: the last words"
    assert outcomes["hangs"]["failure"] == "time limit"
    processes = [outcomes[name]["result"]["process"] for name in "abcd"]
    assert len(set(processes)) == 3
    assert processes[2] == processes[3]


def test_remaining_measurements_are_named_when_time_is_up(run: Callable[..., list[dict[str, Any]]]):
    assert [entry["failure"] for entry in run("a", "b", minutes=0)] == ["not reached"] * 2


def test_options_unknown_to_xla_are_dropped(run: Callable[..., list[dict[str, Any]]]):
    entries = run("a", "b", environment={"XLA_FLAGS": "--unknown_flag"})
    assert all("result" in entry for entry in entries)


def test_crashing_compilers_lose_no_measurement(run: Callable[..., list[dict[str, Any]]]):
    entries = run("a", "crashes", "b", compilers=2)
    assert [entry["name"] for entry in entries if "result" in entry] == ["a", "b"]


def test_quiet_suspends_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counter = tmp_path / "count"
    script = f"import time\nwhile True:\n    open({str(counter)!r}, 'a').write('x')\n    time.sleep(0.01)"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        try:
            (tmp_path / "groups.json").write_text(json.dumps([process.pid]))
            monkeypatch.setenv(SUSPENDED, str(tmp_path / "groups.json"))
            while not counter.exists():
                time.sleep(0.01)
            with quiet():
                before = counter.stat().st_size
                time.sleep(0.2)
                assert counter.stat().st_size == before
            while counter.stat().st_size == before:  # hangs if the process stays suspended
                time.sleep(0.01)
        finally:
            process.kill()


def test_flags_are_appended_to_existing_ones():
    assert merged({"XLA_FLAGS": "--a", "X": "1"}, {"XLA_FLAGS": "--b"}) == {"XLA_FLAGS": "--a --b", "X": "1"}
    assert merged({}, {"XLA_FLAGS": "--b"}) == {"XLA_FLAGS": "--b"}


@pytest.mark.parametrize("name", ["library fused", "elementwise"])
def test_candidates_compute_temporal_attention(name: str):
    """Uses three frames of nine places, so that no tile is full."""
    shapes = (2, 3, 9, 32), (2, 1, 32), (32, 3, 2, 16), (3, 2, 16)
    keys = jax.random.split(jax.random.key(0), 4)
    given = [jax.random.normal(key, shape, jnp.bfloat16) / shape[-1] for key, shape in zip(keys, shapes, strict=True)]
    got = attention.CONTENDERS[name][0](*given, "time")
    assert jnp.allclose(got, attention.library("xla")(*given, "time"), atol=1e-2)


def test_every_implementation_of_the_model_is_measured():
    names = {measurement.name for measurement in SECTIONS["attention"].measurements(SIZES["base"])}
    for step in ("time", "space"):
        assert {f"{step}, library {name}" for name in attention.IMPLEMENTATIONS} <= names


@pytest.mark.parametrize("size", SIZES)
def test_names_are_unique(size: str):
    for section in SECTIONS.values():
        names = [measurement.name for measurement in section.measurements(SIZES[size])]
        assert len(names) == len(set(names)) > 0


def test_profile_sums_operations_by_model_part():
    program = """
  %fusion.1 = f32[8] fusion(%a), kind=kLoop, metadata={op_name="jit(train_step)/jvp(TimeSformer)/blocks_0/mlp/fc1/dot_general"}
  ROOT %copy.2 = f32[8] copy(%b), metadata={op_type="x" op_name="jit(train_step)/transpose(jvp(TimeSformer))/blocks_0/attn/mul"}
  %while.3 = f32[8] while(%b), metadata={op_name="jit(train_step)/jvp(TimeSformer)/blocks_0"}
"""
    events = [("fusion.1", 3e6), ("copy.2", 6e6), ("while.3", 9e6), ("MemcpyH2D", 3e6), ("fusion.1", 3e6)]
    found = profile.summarize(events, profile.source_paths(program))
    assert found["device_ms"] == pytest.approx(15 / profile.STEPS)
    assert found["parts"]["MLP"] == {"forward_ms": pytest.approx(6 / profile.STEPS), "backward_ms": 0}
    assert found["parts"]["spatial attention, core"]["backward_ms"] == pytest.approx(6 / profile.STEPS)
    assert found["unnamed_ms"] == pytest.approx(3 / profile.STEPS)
    assert [each["operation"] for each in found["operations"]][-1] == "MemcpyH2D"


@pytest.mark.slow
def test_interrupted_run_keeps_its_results(tmp_path: Path):
    output = tmp_path / "cpu.json"
    process = subprocess.Popen(command(f"--output={output}"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (output.exists() and read_record(output)["entries"]):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "has what was measured so far" in errors
    content = read_record(output)
    assert not content["finished"]
    assert "result" in content["entries"][0]


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path):
    output = tmp_path / "cpu.json"
    environment = {**os.environ, "TIMESFORMER_GPU_TRACE": str(tmp_path / "trace")}
    wanted = ",".join(name for name in SECTIONS if not name.startswith("peer"))
    subprocess.run(command(f"--output={output}", f"--only={wanted}"), cwd=ROOT, check=True, env=environment)
    content = json.loads(output.read_text())
    failures = {entry["failure"] for entry in content["entries"] if "failure" in entry}
    assert failures <= set(FAILURES)
    for entry in content["entries"]:
        if "failure" in entry:  # needs an NVIDIA GPU, or wider heads than those of the tiny model
            assert any(word in entry["message"] for word in ("cuDNN", "NVIDIA", "needs dtype")), entry
        else:
            assert entry["result"].get("agrees", True)
            assert entry["result"].get("loss_is_finite", True)
    found = next(entry["result"] for entry in content["entries"] if entry["section"] == "profile")
    parts = sum(sum(part.values()) for part in found["parts"].values())
    assert parts == pytest.approx(found["device_ms"])
    assert found["parts"]["MLP"]["backward_ms"] > 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
