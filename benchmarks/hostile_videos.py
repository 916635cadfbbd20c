"""Read mutated videos: each must yield frames or be refused with a one-line error.

    python benchmarks/hostile_videos.py
    python benchmarks/hostile_videos.py --count=10000 --seed=7 --minutes=30 --keep=FOLDER

Small valid videos in many containers and codecs are mutated by flipping bits, zeroing bytes, cutting and duplicating pieces,
and setting header fields to extreme values. Each is read as `predict` reads it (tiled clips) and as `check` does, by worker
processes with limits on memory and on the time per file. The table has a row per source. The exit code is 1 if any file was
neither read nor refused with a one-line error; `--keep` keeps those files.
"""

import argparse
import collections
import concurrent.futures
import itertools
import logging
import multiprocessing
import queue
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av import logging as av_logging

sys.path.insert(0, str(Path(__file__).parent.parent))

from timesformer_jax.datasets import Entry, inspect_video
from timesformer_jax.errors import InputError
from timesformer_jax.video import Limits, Preprocess

LIMITS = Limits(max_pixels=1024 * 1024, max_seconds=3600.0, max_bytes=1 << 24)
MEMORY = 1 << 30
"""Bytes by which a file may increase the memory of its process."""
SECONDS = 20.0
"""Time limit per file, generous since the machine may do other work."""
OUTCOMES = ("read", "refused", "traceback", "too slow", "too much memory", "died")

SOURCES = {
    "mp4 h264": ("mp4", "libx264", {"g": "5"}),
    "mp4 mpeg4": ("mp4", "mpeg4", {}),
    "fragmented mp4": ("mp4", "libx264", {"g": "5"}),
    "mov": ("mov", "mjpeg", {}),
    "mkv h264": ("mkv", "libx264", {"g": "5"}),
    "mkv ffv1": ("mkv", "ffv1", {}),
    "webm vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "webm vp8": ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "avi mpeg4": ("avi", "mpeg4", {}),
    "avi raw": ("avi", "rawvideo", {}),
    "ts h264": ("ts", "libx264", {"g": "5"}),
    "m2ts mpeg2": ("m2ts", "mpeg2video", {}),
    "mpg": ("mpg", "mpeg2video", {}),
    "flv": ("flv", "flv", {}),
    "wmv": ("wmv", "wmv2", {}),
    "3gp h263": ("3gp", "h263", {}),
    "gif": ("gif", "gif", {}),
    "h264": ("h264", "libx264", {"g": "5"}),
    "ogv": ("ogg", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
}
"""Maps each source to its suffix, encoder and encoder options."""

HEADER = 600
"""Bytes at either end that are mutated more often than others, since most of them belong to headers."""
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Case(NamedTuple):
    """A mutated file with its source and mutations."""

    source: str
    mutations: tuple[str, ...]
    path: Path


def write_source(path: Path, codec: str, options: dict[str, str], *, fragmented: bool) -> Path:
    """Write 12 frames of 176 x 144 pixels."""
    muxing = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    formats = {"gif": "rgb8", "mjpeg": "yuvj420p"}
    with av.open(str(path), "w", options=muxing) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 144, 176, formats.get(codec, "yuv420p")
        ramp = np.linspace(0, 200, 176, dtype=np.uint8)[None, :, None]
        for number in range(12):
            picture = np.ascontiguousarray(np.broadcast_to(np.roll(ramp, 9 * number, axis=1), (144, 176, 3)))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def place(random: np.random.Generator, data: bytearray) -> int:
    """Draw an offset: half the time anywhere, otherwise near the beginning or the end."""
    if random.random() < 0.5:
        return int(random.integers(len(data)))
    near = int(random.integers(min(HEADER, len(data))))
    return near if random.random() < 0.7 else len(data) - 1 - near


def flip(random: np.random.Generator, data: bytearray) -> None:
    for _ in range(int(random.integers(1, 20))):
        data[place(random, data)] ^= 1 << int(random.integers(8))


def zero(random: np.random.Generator, data: bytearray) -> None:
    start = place(random, data)
    end = min(start + int(random.integers(1, 64)), len(data))
    data[start:end] = bytes(end - start)


def truncate(random: np.random.Generator, data: bytearray) -> None:
    del data[max(int(len(data) * random.uniform(0.02, 1)), 1) :]


def cut(random: np.random.Generator, data: bytearray) -> None:
    start = place(random, data)
    del data[max(start, 1) : start + int(random.integers(1, 200))]


def double(random: np.random.Generator, data: bytearray) -> None:
    start = place(random, data)
    piece = data[start : start + int(random.integers(1, len(data) + 1))]
    target = place(random, data)
    data[target:target] = piece * int(random.integers(1, 4))


def resize(random: np.random.Generator, data: bytearray) -> None:
    """Overwrite integers with extreme values, in either byte order."""
    for _ in range(int(random.integers(1, 4))):
        width = int(random.choice([1, 2, 4]))
        start = min(place(random, data), max(len(data) - width, 0))
        value = int(random.choice(EXTREMES)) & (1 << 8 * width) - 1
        data[start : start + width] = value.to_bytes(width, "big" if random.random() < 0.5 else "little")


MUTATIONS: dict[str, Callable[[np.random.Generator, bytearray], None]] = {
    "flip": flip,
    "zero": zero,
    "truncate": truncate,
    "cut": cut,
    "double": double,
    "resize": resize,
}


def make_cases(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Yield `count` mutated files, cycling through the sources; a seed always gives the same file i."""
    sources = {}
    for name, (suffix, codec, options) in SOURCES.items():
        path = folder / f"{name.replace(' ', '_')}.{suffix}"
        sources[name] = write_source(path, codec, options, fragmented=name.startswith("fragmented")).read_bytes()
    for number in range(count):
        random = np.random.default_rng([seed, number])
        name = list(SOURCES)[number % len(SOURCES)]
        data = bytearray(sources[name])
        mutations = tuple(random.choice(list(MUTATIONS), size=int(random.integers(1, 4))).tolist())
        for mutation in mutations:
            MUTATIONS[mutation](random, data)
            data = data or bytearray(1)
        path = folder / f"{number:06d}.{SOURCES[name][0]}"
        path.write_bytes(data)
        yield Case(name, mutations, path)


def read(path: Path) -> tuple[str, str]:
    """Read a file as the jobs do; return its outcome and a message."""
    preprocess = Preprocess(num_frames=4, crop_size=32, sampling_rate=1.0, placement="tiled")
    entry = Entry(name=path.name, path=path, labels=())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin, said = time.monotonic(), []
    for job in (lambda: sum(1 for _ in preprocess.clips(path, limits=LIMITS)), lambda: inspect_video(entry, limits=LIMITS)):
        try:
            job()
        except InputError as error:
            if len(str(error).splitlines()) != 1:
                return "traceback", f"more than one line: {error!r}"
            said.append(str(error))
        except MemoryError as error:
            return "too much memory", repr(error)
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}"
    if time.monotonic() - begin > SECONDS:
        return "too slow", f"{time.monotonic() - begin:.0f} s"
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if added > MEMORY:
        return "too much memory", f"{added >> 20} MiB"
    return ("refused" if said else "read"), " ".join(said[:1])


def serve(connection: Any) -> None:
    """Receive paths and send outcomes, in a worker process."""
    av_logging.set_level(av_logging.PANIC)
    logging.getLogger("timesformer_jax").setLevel(logging.ERROR)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:  # so that allocating too much memory raises an error
        largest = pages * resource.getpagesize() + 4 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (path := connection.recv()) is not None:
        connection.send(read(path))


class Worker:
    """A process that reads files; one that dies or hangs over a file is replaced."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def read(self, path: Path) -> tuple[str, str]:
        """Call `read` on the file in the process."""
        try:
            self._connection.send(path)
            if self._connection.poll(3 * SECONDS):
                return self._connection.recv()
            found = "too slow", f"more than {3 * SECONDS:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            found = "died", f"exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return found

    def stop(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


def run_cases(cases: Iterator[Case], num_workers: int, end: float) -> Iterator[tuple[Case, str, str]]:
    """Yield each case with its outcome and a message, until `end`."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for _ in range(num_workers):
        idle.put(Worker())

    def run(case: Case) -> tuple[Case, str, str]:
        worker = idle.get()
        try:
            return case, *worker.read(case.path)
        finally:
            idle.put(worker)

    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        for group in iter(lambda: list(itertools.islice(cases, 8 * num_workers)), []):
            yield from pool.map(run, group)
            if time.monotonic() > end:
                break
    for _ in range(num_workers):
        idle.get().stop()


def table(counts: dict[str, collections.Counter[str]]) -> str:
    """Return a table with a row per source and a total."""
    total = sum(counts.values(), collections.Counter())
    lines = ["| source | tried | " + " | ".join(OUTCOMES) + " |", "|---" * (2 + len(OUTCOMES)) + "|"]
    for name, row in [*counts.items(), ("all", total)]:
        lines.append(f"| {name} | {row.total()} | " + " | ".join(str(row[outcome]) for outcome in OUTCOMES) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; return 1 if any file was neither read nor refused with a one-line error."""
    parser = argparse.ArgumentParser(description="Read mutated videos.")
    parser.add_argument("--count", type=int, default=1000, help="mutated files (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no new file after this time (default: 30)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--keep", type=Path, help="keep the files that failed in this folder")
    arguments = parser.parse_args()
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in SOURCES}
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), arguments.count, arguments.seed)
        for case, outcome, said in run_cases(cases, arguments.workers, time.monotonic() + 60 * arguments.minutes):
            counts[case.source][outcome] += 1
            if outcome not in ("read", "refused"):
                bad += 1
                print(f"{case.path.name} ({case.source}, {' '.join(case.mutations)}): {outcome}: {said}", file=sys.stderr)
                if arguments.keep is not None:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(case.path, arguments.keep)
            case.path.unlink()
    print(f"PyAV {av.__version__}, seed {arguments.seed}\n\n{table(counts)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
