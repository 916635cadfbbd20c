"""Something-Something v2, in its distributed form."""

from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import find_lists, index_files
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import read_records
from timesformer_jax.errors import InputError
from timesformer_jax.labels import read_labels

FPS = 30.0
"""Frame rate at which the official code extracts frames; the videos themselves have 12 fps."""

LISTS = {
    split: (f"something-something-v2-{name}.json", f"{name}.json")
    for split, name in (("labels", "labels"), ("train", "train"), ("val", "validation"))
}


def read_something_v2(root: Path) -> Listing:
    """Read Something-Something v2 from `something-something-v2-labels.json`, `...-train.json` and `...-validation.json`.

    Short names such as `labels.json` work too. The lists are in the root or a folder below it. Videos are anywhere below the
    root: `ID.webm`, another video file, or a folder of frames called ID. Classes are in the order of their numbers.
    """
    lists = find_lists(root, LISTS)
    label_names = read_labels(lists.pop("labels"))
    known = set(label_names)
    records = {split: read_records(path, ("id", "template")) for split, path in lists.items()}
    files = index_files(root, frame_folders={str(record["id"]) for videos in records.values() for record in videos})
    gathered = Gathered()
    for split, videos in records.items():
        for record in videos:
            name = str(record["id"])
            template = str(record["template"]).replace("[", "").replace("]", "")
            if template not in known:
                raise InputError(
                    f"{lists[split]}, id {name}: the template {record['template']!r} isn't in the file of labels: take both "
                    "files from one download."
                )
            path = next(iter(files.get(name, [])), None)
            gathered.add(split, name, path, template, fps=FPS if path and path.is_dir() else None)
    return gathered.listing(label_names, files=files)
