"""Time and memory of listing, preparing and opening data sets of 1,000 to 1.2 million videos.

    python benchmarks/data_at_scale.py                       all sizes, eight minutes of processor time
    python benchmarks/data_at_scale.py --sizes 1000 30000    selected sizes

Creates its own input: hard links to a few small videos (at most 240,000; the 1.2 million are five segments of each) and lists
of absent videos. Only a few clips are decoded. Preparing covers everything but encoding, with the same small record for every
video and the number of record files that records of 7 MB would need. Each operation runs in its own process. Seconds are
processor time, so that other work on the machine doesn't count. Memory is the peak beyond what the imports take. Growth is the
exponent between the two largest sizes: 1 is linear, 2 is quadratic. Linux only.
"""

import argparse
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose input_pipeline.py hides the package

import numpy as np  # noqa: E402

SIZES = (1_000, 30_000, 240_000, 1_200_000)
MOST_FILES = 240_000
VIDEOS_PER_PART = 19
"""Videos per record file of 128 MiB: JPEG frames at Kinetics' size take 7 MB per video."""
LABELS = 10
SPLITS = {"train": (0, 1, 2, 3), "val": (4,)}
"""Maps each split to its fifths of the files."""
STORAGE = {"storage": "jpeg", "short_side": 16, "max_fps": None, "num_workers": 1}


class Figure(NamedTuple):
    """Time and memory of an operation at one size."""

    seconds: float
    mebibytes: float
    note: str = ""


class World:
    """The files of one size.

    Args:
      folder: Folder of all sizes.
      size: Number of videos.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder / f"{size}", size
        self.videos, self.absent, self.data = folder / "videos", self.folder / "absent", self.folder / "data"

    def make(self) -> None:
        """Write a tree FOLDER/LABEL/NUMBER.mp4 (shared by all sizes), two lists of it, and Kinetics lists of absent videos."""
        self.absent.mkdir(parents=True)
        files = min(self.size, MOST_FILES)
        originals = sorted((self.videos.parent / "originals").glob("*.mp4"))
        for number in range(files):
            path = self.videos / self._label(number) / f"{number:06d}.mp4"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(originals[number % len(originals)], path)
        for split in SPLITS:
            with open(self.folder / f"{split}.csv", "w") as file:
                file.write("path,label,start,end\n")
                for number, piece in self._pieces(split):
                    label = self._label(number)
                    file.write(f"{label}/{number:06d}.mp4,{label},{piece},{piece + 1}\n")
            with open(self.absent / f"{split}.csv", "w") as file:
                file.write("label,youtube_id,time_start,time_end,split\n")
                file.writelines(f"{self._label(number)},{number:06d},0,10,{split}\n" for number in range(LABELS))
                count = self.size * len(SPLITS[split]) // 5
                file.writelines(f"{self._label(n)},{split[0]}{n:010d},{n % 50},{n % 50 + 10},{split}\n" for n in range(count))
        for number in range(LABELS):
            os.link(originals[0], self.absent / f"{number:06d}.mp4")

    def _pieces(self, split: str) -> Iterator[tuple[int, int]]:
        """Yield the numbers of file and segment for each video of a split."""
        files = min(self.size, MOST_FILES)
        for number in range(files):
            if number // LABELS % 5 in SPLITS[split]:
                yield from ((number, piece) for piece in range(self.size // files))

    def made_listing(self) -> Any:
        """Build the result of `listing` without reading any file."""
        from timesformer_jax.datasets import Entry, Listing

        def entry(number: int, piece: int) -> Any:
            label = self._label(number)
            path = f"{label}/{number:06d}.mp4"
            return Entry(
                name=f"{path} {piece}-{piece + 1}", path=self.videos / path, labels=(label,), start=piece, end=piece + 1
            )

        splits = {split: [entry(*each) for each in self._pieces(split)] for split in SPLITS}
        return Listing(label_names=tuple(map(self._label, range(LABELS))), splits=splits)

    @staticmethod
    def _label(number: int) -> str:
        return f"label{number % LABELS}"

    def listing(self) -> Any:
        from timesformer_jax.datasets import LAYOUTS

        return LAYOUTS["video_list"](self.folder / "train.csv", self.folder / "val.csv", root=self.videos)

    def open(self, **options: Any) -> Any:
        """Open the data set of the lists, preparing it first if necessary."""
        from input_pipeline import open_dataset

        lists = {split: str(self.folder / f"{split}.csv") for split in ("train", "val")}
        data_dir = str(self.data)
        return open_dataset(
            name="video_list", root=str(self.videos), data_dir=data_dir, labels=None, **lists, **STORAGE, **options
        )

    def opened(self) -> Any:
        """Open the prepared data set like a run without `data.root`, which skips the comparison with its source."""
        from input_pipeline import VideoDataset
        from input_pipeline._tensorflow import quiet_tfds, tfds
        from input_pipeline.builders import BUILDERS
        from input_pipeline.video_builder import VideoConfig
        from timesformer_jax.datasets import Storage

        (path,) = self.data.glob("video_list/*/*/dataset_info.json")
        config = VideoConfig(name=path.parent.parent.name, storage=Storage(codec="jpeg", short_side=16))
        with quiet_tfds():
            builder: tfds.core.DatasetBuilder = BUILDERS["video_list"](data_dir=str(self.data), config=config)
        return VideoDataset(builder=builder, label="label", codec="jpeg", short_side=16)


def write_originals(folder: Path) -> None:
    """Write five small videos, since one file can't have 240,000 links."""
    import av

    folder.mkdir(parents=True)
    for number in range(5):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
            for time_ in range(8):
                frame = np.full((16, 16, 3), 25 * number + 10 * time_, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


# Operations on a world. Only the code between the two yields is measured; the second one yields a note for the table.

Operation = Callable[[World], Iterator[str]]


def list_folder(world: World) -> Iterator[str]:
    from timesformer_jax.video import FolderContents

    yield ""
    yield f"{len(FolderContents(world.videos).videos):,} files"


def read_lists(world: World) -> Iterator[str]:
    yield ""
    listing = world.listing()
    yield f"{sum(map(len, listing.splits.values())):,} entries"


def read_absent(world: World) -> Iterator[str]:
    from timesformer_jax.datasets import LAYOUTS

    yield ""
    listing = LAYOUTS["kinetics400"](world.absent)
    yield f"{sum(map(len, listing.missing.values())):,} absent"


def find_duplicates(world: World) -> Iterator[str]:
    from timesformer_jax.datasets import describe_duplicates

    listing = world.made_listing()
    yield ""
    yield f"{len(describe_duplicates(listing))} kinds"


def record_source(world: World) -> Iterator[str]:
    from input_pipeline.sources import read_contents

    listing = world.made_listing()
    yield ""
    yield f"digest {read_contents(listing, world.videos).digest[:6]}"


def prepare(world: World) -> Iterator[str]:
    from input_pipeline import preparation

    (record,) = _records(world.folder / "record")
    preparation.PART_BYTES = VIDEOS_PER_PART * (record.lengths[0] + 16)

    def linked(videos: Any, *, folder: str, **_: Any) -> Iterator[Any]:
        for number, video in enumerate(videos):
            path = os.path.join(folder, f"{number}")
            os.link(record.path, path)
            facts = {**record.facts[0], "name": [video.entry.name], "label": list(video.labels)}
            yield video.entry, record._replace(path=path, facts=[facts])

    preparation._prepared = linked
    yield ""
    data = world.open()
    shards = sum(split.num_shards for split in data.builder.info.splits.values())
    yield f"{shards:,} shards"


def _records(folder: Path) -> list[Any]:
    """Write the records of one small video."""
    from timesformer_jax.datasets import Entry, Storage
    from timesformer_jax.datasets.storing import Labelled, write_records

    folder.mkdir(exist_ok=True)
    path = folder.parent.parent / "originals" / "0.mp4"
    entry = Entry(name="a record of every video", path=path, labels=("label0",))
    video = Labelled(entry, (0,))
    return [write_records(video, Storage(codec="jpeg", short_side=16), several=False, folder=str(folder))]


def open_again(world: World) -> Iterator[str]:
    yield ""
    yield f"{world.open().num_videos('train'):,} of train"


def _clip_options() -> Any:
    from input_pipeline import ClipOptions

    return ClipOptions(num_frames=2, crop_size=16, sampling="uniform", sampling_rate=2.0, short_side=(16, 16))


def _first_batch(world: World, share_of_epoch: float) -> Iterator[str]:
    from input_pipeline import training_batches

    yield ""
    data = world.opened()
    first = int(share_of_epoch * data.num_videos("train"))
    batches = training_batches(data, "train", _clip_options(), batch_size=8, seed=0, first_clip=first, shard=(0, 1))
    yield f"{next(batches)['video'].shape[0]} clips"


def first_batch(world: World) -> Iterator[str]:
    yield from _first_batch(world, 0.0)


def resume_in_epoch(world: World) -> Iterator[str]:
    yield from _first_batch(world, 2.5)


def look_up_names(world: World) -> Iterator[str]:
    yield ""
    data = world.opened()
    wanted = {f"label{n % LABELS}/{n:06d}.mp4 0-1" for n in range(8)}
    yield f"{sum(name in wanted for name in data.facts('train', 'name'))} names found"


def count_tiles(world: World) -> Iterator[str]:
    import dataclasses

    from input_pipeline.clips import _tiles

    yield ""
    counts = _tiles(world.opened(), "train", dataclasses.replace(_clip_options(), placement="tiled"))
    yield f"{counts.sum():,} clips"


def start_with_absent(world: World) -> Iterator[str]:
    """Describe absent videos at start-up, given data prepared with their lists."""
    from input_pipeline.left_out import LeftOut, write_left_out
    from timesformer_jax.datasets import LAYOUTS

    listing = LAYOUTS["kinetics400"](world.absent)
    metadata = write_left_out(world.folder, LeftOut({split: dict(videos) for split, videos in listing.missing.items()}))
    yield ""
    data = world.opened()
    data.builder.info.metadata.update(metadata)
    lines = data.describe_left_out()
    size = len(json.dumps(metadata))
    yield f"{len(lines)} lines, {sum(map(len, lines)) / 1e6:.3f} MB; metadata {size / 1e6:.3f} MB"


OPERATIONS: dict[str, Operation] = {
    "list a folder": list_folder,
    "read two lists": read_lists,
    "read lists of absent videos": read_absent,
    "find duplicates": find_duplicates,
    "measure all files, for the source": record_source,
    "prepare, all but encoding": prepare,
    "open again, compare with the source": open_again,
    "open, first training batch": first_batch,
    "open, resume in the third epoch": resume_in_epoch,
    "open, names for a report": look_up_names,
    "open, count tiled views": count_tiles,
    "open, warn of absent videos": start_with_absent,
}

OF_FILES = ("list a folder",)
"""Operations on whole files rather than segments."""


def measure(operation: Operation, world: World) -> Figure:
    """Run an operation in its own process.

    Raises:
      RuntimeError: If the operation fails.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            running = operation(world)
            next(running)
            before, began = _resident(), time.process_time()
            note = next(running)
            seconds = time.process_time() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(writer, json.dumps([seconds, max(peak - before, 0.0), note]).encode())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{operation.__name__} failed at {world.size:,} videos.")
    return Figure(*json.loads(text))


def _resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(figures: dict[int, Figure]) -> str:
    """Return the exponent by which time grows between the two largest sizes."""
    if len(figures) < 2:
        return ""
    small, large = sorted(figures)[-2:]
    return f"{math.log(figures[large].seconds / figures[small].seconds) / math.log(large / small):.2f}"


def draw(found: dict[str, dict[int, Figure]], sizes: list[int]) -> str:
    """Return the table of seconds and MiB at each size."""
    lines = [
        f"| | {' | '.join(f'{size:,}' for size in sizes)} | growth | at the largest |",
        "|---|" + "---|" * (len(sizes) + 2),
    ]
    for name, figures in found.items():
        cells = [
            f"{figures[size].seconds:.2f} s, {figures[size].mebibytes:,.0f} MiB" if size in figures else "" for size in sizes
        ]
        note = figures[max(figures)].note if figures else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {growth(figures)} | {note} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of videos")
    parser.add_argument("--folder", type=Path, help="parent of the scratch folder (default: the system's temporary folder)")
    parser.add_argument("--only", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS), help="operations to run")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="data_at_scale-", dir=given.folder))
    began = time.monotonic()
    found: dict[str, dict[int, Figure]] = {name: {} for name in given.only}
    try:
        write_originals(folder / "originals")
        import input_pipeline  # noqa: F401  (before any fork, so that it isn't measured)

        for size in sorted(given.sizes):
            world = World(folder, size)
            world.make()
            for name in given.only:
                if name in OF_FILES and size > MOST_FILES:
                    continue
                found[name][size] = figure = measure(OPERATIONS[name], world)
                print(f"{size:,}: {name}: {figure.seconds:.2f} s, {figure.mebibytes:,.0f} MiB, {figure.note}", flush=True)
            shutil.rmtree(world.folder)
        print(draw(found, sorted(given.sizes)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
