"""Load mutated weight files: each must load or be refused with a clear error, within 2 s of CPU time and 1 GiB of memory.

    python benchmarks/hostile_weights.py [--count 500] [--seed 0] [--keep FOLDER]

Takes valid files of every format (safetensors, .npz, a Hugging Face folder, a checkpoint of this project, and PyTorch pickles
if PyTorch is installed) and changes a byte, a length, a field or a whole entry. A worker process loads one file after another,
and is replaced if it crashes or hangs. Prints a table and every failure; the exit code is 1 if there was one. The limits apply
to loading alone, without imports. Linux only.
"""

import argparse
import collections
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

SECONDS, BYTES, HANGING = 2.0, 1 << 30, 60.0
"""Limits per file: CPU time, memory beyond the imports, and the wall time after which a worker is killed."""

DEEP = "[" * 100_000
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 7, 10**9, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "0", "x" * 5000, "\x1b[31m\nred", "\ud800", [], [0], [1, 2], ["a"] * 5, {}, {"0": 1}, [[[[]]]]),
)
"""Values that replace a field's own."""

Draw = np.random.Generator


def pick(draw: Draw, values: Any) -> Any:
    return values[int(draw.integers(len(values)))]


def mutate_json(value: Any, draw: Draw) -> Any:
    """Return a copy with one field at a random depth replaced, removed or renamed."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        key = pick(draw, list(value)) if isinstance(value, dict) else int(draw.integers(len(value)))
        if isinstance(value, dict) and draw.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        if isinstance(value, dict) and draw.random() < 0.1:
            return {("y" * 5000 if k == key else k): v for k, v in value.items()}
        changed = value.copy()
        changed[key] = mutate_json(value[key], draw)
        return changed
    return pick(draw, ODD)


def mutate_text(value: Any, draw: Draw) -> bytes:
    """Return JSON with one field changed, or text that isn't valid JSON."""
    kind = draw.random()
    if kind < 0.05:
        return DEEP.encode()
    if kind < 0.1:
        return b"{" + b" " * (64 << 20)
    return json.dumps(mutate_json(value, draw)).encode("utf-8", "surrogatepass")


def mutate_bytes(data: bytes, draw: Draw) -> bytes:
    """Change a few bytes, remove or repeat a piece, or truncate."""
    place = int(draw.integers(len(data) if draw.random() < 0.5 else min(len(data), 2000)))
    kind = draw.integers(4)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place + int(draw.integers(1, 100)) :]
    if kind == 2:
        return data[:place] + data[place : place + 50] * 2 + data[place + 50 :]
    changed = bytearray(data)
    for offset in draw.integers(0, 8, 3):
        changed[min(place + offset, len(data) - 1)] = draw.integers(256)
    return bytes(changed)


def replace_by_special(path: Path, draw: Draw) -> None:
    """Replace a file with a named pipe, a device, a folder, a dangling link or a huge sparse file."""
    path.unlink()
    kind = draw.integers(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to(path.parent / "missing")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 42)


def mutate_safetensors(source: Path, target: Path, draw: Draw) -> None:
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = draw.random()
    if kind < 0.1:
        target.write_bytes(int(pick(draw, (0, 1, 1 << 20, 1 << 29, 1 << 40, (1 << 64) - 1))).to_bytes(8, "little") + data[8:])
    elif kind < 0.3:
        target.write_bytes(mutate_bytes(data, draw))
    elif kind < 0.4:
        name = pick(draw, [name for name in header if name != "__metadata__"])
        header[name]["shape"] = pick(draw, ([1 << 40], [0, 1 << 62], [-1], [1 << 20, 1 << 20], [], [1] * 100, ["a"]))
        target.write_bytes(packed(json.dumps(header).encode(), body))
    elif kind < 0.5:
        header["__metadata__"] = {"timesformer_jax": pick(draw, (DEEP, "{", '{"model": 3}', '{"model": {"num_heads": 1e999}}'))}
        target.write_bytes(packed(json.dumps(header).encode(), body))
    elif kind < 0.7:
        target.write_bytes(packed(mutate_text(header, draw), body))
    else:
        from safetensors.numpy import load_file, save_file

        save_file(change_tensors(load_file(source), draw), target)


def change_tensors(arrays: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Change a tensor's dtype, shape or values, remove it, or add a copy under another name."""
    name = pick(draw, list(arrays))
    kind = draw.integers(4)
    if kind == 0:
        odd = (
            np.zeros(3, np.int32),
            np.zeros((0, 3), np.float32),
            np.zeros(3, np.float16),
            np.full(arrays[name].shape, np.nan),
        )
        return {**arrays, name: pick(draw, odd)}
    if kind == 1:
        shape = arrays[name].shape
        return {**arrays, name: np.zeros(pick(draw, (shape[::-1], (1, *shape), (*shape[:-1], shape[-1] + 1))), np.float32)}
    if kind == 2:
        return {other: array for other, array in arrays.items() if other != name}
    return {**arrays, pick(draw, ("decoder." + name, "net." + name, "x" * 5000, "blocks.7" + "0" * 400)): arrays[name]}


def packed(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def mutate_npz(source: Path, target: Path, draw: Draw) -> None:
    kind = draw.random()
    if kind < 0.4:
        target.write_bytes(mutate_bytes(source.read_bytes(), draw))
        return
    with np.load(source) as archive:
        arrays: dict[str, Any] = dict(archive)
    name = pick(draw, list(arrays))
    if kind < 0.5:
        arrays[name] = pick(draw, (np.array([print], dtype=object), np.float32(3), np.zeros(9, "U5"), np.zeros(3, ">f4")))
    elif kind < 0.7:
        arrays = change_tensors(arrays, draw)
    written = io.BytesIO()
    np.savez(written, **arrays)
    if kind < 0.7:
        target.write_bytes(written.getvalue())
        return
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            content = old.read(member)
            if member == f"{name}.npy":
                content = hostile_npy(content, draw)
            new.writestr(member, content)


def hostile_npy(content: bytes, draw: Draw) -> bytes:
    """Return an array with a false or damaged header, or with 100 MiB of zeros appended."""
    kind = draw.integers(3)
    if kind == 0:
        return content + bytes(100 << 20)
    if kind == 1:
        return mutate_bytes(content, draw)
    shape = pick(draw, ((1 << 40,), (-1, 5), (1 << 20, 1 << 20), (True,), ("a",)))
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content[128:]


def mutate_folder(source: Path, target: Path, draw: Draw) -> None:
    """Copy a folder and change one file: its fields if it is JSON, otherwise its bytes."""
    shutil.copytree(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    described = [path for path in files if path.suffix == ".json" or path.name.endswith("METADATA")]
    path = pick(draw, described) if draw.random() < 0.6 else pick(draw, files)
    kind = draw.random()
    if kind < 0.15:
        replace_by_special(path, draw)
    elif path in described:
        path.write_bytes(mutate_text(json.loads(path.read_text()), draw))
    elif path.stat().st_size:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    else:
        path.unlink()


def mutate_pickle(source: Path, target: Path, draw: Draw) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    kind = draw.random()
    if kind < 0.35:
        target.write_bytes(mutate_bytes(source.read_bytes(), draw))
        return
    content = torch.load(source, weights_only=True)
    tensors = content["model_state"]
    name = pick(draw, list(tensors))
    if kind < 0.55:
        content["cfg"] = pick(draw, HOSTILE_CONFIGS)
    elif kind < 0.75:
        odd = (torch.zeros(1).expand(1 << 20, 1 << 20), torch.zeros(3).to_sparse(), torch.zeros(2, dtype=torch.int64))
        tensors[name] = pick(draw, (*odd, torch.empty(1 << 40, device="meta"), torch.zeros(2) * 1j, "text", None, [1.0]))
    elif kind < 0.85:
        content["extra"] = pick(draw, (bytearray(5), np.arange(3), np.float32(3), print, Path("x"), {"a": {"b": tensors}}))
    elif kind < 0.95:
        tensors[pick(draw, ("x" * 5000, "a\x1b[31m\nb", "", "net." * 100 + "cls_token"))] = tensors.pop(name)
    else:
        content = mutate_json({"model_state": 0, "epoch": 1, "meta": {"CLASSES": ["a"]}}, draw)
    torch.save(content, target, _use_new_zipfile_serialization=bool(draw.integers(2)))


HOSTILE_CONFIGS = (
    *("\n" * 200_000, "  \n" * 100_000, "  MEAN:" + "\n  -" * 100_000, "  MEAN: [" + "0.1, " * 100_000),
    *("  NUM_FRAMES: " + "9" * 5000, "  NUM_FRAMES: many", "  NUM_CLASSES: 0", "  ATTENTION_TYPE: axial", "  STD: []"),
    *(" " * 200_000 + "x", "  SAMPLING_RATE: " + "1" * 5000, "  DATASET:\n  DATASET: " + "k" * 5000, ":" * 100_000),
)
"""Texts that replace the official trainer's YAML."""

Mutate = Callable[[Path, Path, Draw], None]


def write_sources(folder: Path) -> dict[str, tuple[Path, Mutate]]:
    """Write a valid file of a small model per format; return each with the function that mutates it."""
    import jax
    import jax.numpy as jnp

    import timesformer_jax as tsf
    from timesformer_jax.pretrained import save_official

    model = tsf.TimeSformer(num_classes=5, image_size=16, patch_size=4, num_frames=4, embed_dim=24, depth=2, num_heads=3)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 16, 16, 3)))["params"]
    small = tsf.Pretrained(model, params, tsf.Preprocess(num_frames=4, crop_size=16), tuple("abcde"))
    save_official(small, folder / "a.safetensors")
    tsf.save_huggingface(small, folder / "folder")
    tsf.save(small, folder / "own")
    from safetensors.numpy import load_file

    arrays: dict[str, Any] = load_file(folder / "a.safetensors")
    np.savez(folder / "a.npz", **arrays)
    sources: dict[str, tuple[Path, Mutate]] = {
        "safetensors": (folder / "a.safetensors", mutate_safetensors),
        "npz": (folder / "a.npz", mutate_npz),
        "Hugging Face folder": (folder / "folder", mutate_folder),
        "own checkpoint": (folder / "own", mutate_folder),
    }
    if importlib.util.find_spec("torch") is not None:
        save_official(small, folder / "a.pyth")
        sources["pickle"] = (folder / "a.pyth", mutate_pickle)
    return sources


def work(connection: Any, warm: list[str]) -> None:
    """Load the received paths, and send (outcome, CPU seconds, bytes) for each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Orbax logs what it raises
    import timesformer_jax as tsf

    def resident(field: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) * 1024  # pyright: ignore[reportOptionalSubscript]

    def outcome(path: str) -> str:
        try:
            tsf.load(path, num_heads=3)
        except tsf.InputError as error:
            text = str(error)
            return "refused" if text.isprintable() and len(text) < 10_000 else f"no sentence: {text[:300]!r}"
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
        return "loaded"

    connection.send([path for path in warm if outcome(path) != "loaded"])
    while (path := connection.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, began = resident("VmRSS"), time.process_time()
        what = outcome(path)
        connection.send((what, time.process_time() - began, resident("VmHWM") - before))


class Worker:
    """A process that loads files, replaced if it dies or hangs."""

    def __init__(self, warm: list[str]):
        self.warm = warm
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.warm), daemon=True)
        self.process.start()
        theirs.close()
        if refused := self.connection.recv():
            raise RuntimeError(f"Unchanged files don't load: {', '.join(refused)}.")

    def load(self, path: Path) -> str:
        """Return "loaded", "refused" or a description of the failure."""
        self.connection.send(str(path))
        with contextlib.suppress(EOFError):
            if self.connection.poll(HANGING):
                what, seconds, taken = self.connection.recv()
                if seconds > SECONDS:
                    return f"{seconds:.1f} s ({what})"
                return f"{taken >> 20} MiB ({what})" if taken > BYTES else what
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.start()
        return f"hung for {HANGING:.0f} s, or crashed (exit code {code})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="mutated files (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations; a seed always gives the same file i")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files that failed in this folder")
    arguments = parser.parse_args()
    found: dict[str, collections.Counter[str]] = {}
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_sources(folder)
        worker = Worker([str(source) for source, _ in sources.values()])
        for i in range(arguments.count):
            form = list(sources)[i % len(sources)]
            source, mutate = sources[form]
            target = folder / f"mutated-{i}{source.suffix}"
            mutate(source, target, np.random.default_rng([arguments.seed, i]))
            what = worker.load(target)
            found.setdefault(form, collections.Counter())[what if what in ("loaded", "refused") else "anything else"] += 1
            if what not in ("loaded", "refused"):
                wrong.append(f"{form}, --seed {arguments.seed}, file {i}: {what}")
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    target.rename(arguments.keep / target.name)
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        worker.connection.send(None)
        worker.process.join()
    print("| format | tried | loaded | refused with a clear error | anything else |\n|---|---|---|---|---|")
    for form, counts in found.items():
        print(f"| {form} | {counts.total()} | {counts['loaded']} | {counts['refused']} | {counts['anything else']} |")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
