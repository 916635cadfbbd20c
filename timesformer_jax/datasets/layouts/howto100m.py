"""HowTo100M for task classification, in which the label of a long video is its task."""

from collections import Counter
from pathlib import Path

from timesformer_jax.datasets.entries import Listing
from timesformer_jax.datasets.layouts.files import find_lists, index_files
from timesformer_jax.datasets.layouts.gathering import Gathered
from timesformer_jax.datasets.layouts.lists import read_lines, read_table
from timesformer_jax.datasets.layouts.shares import val_share
from timesformer_jax.errors import InputError

LISTS = {"videos": ("HowTo100M_v1.csv",), "tasks": ("task_ids.csv",)}


def read_howto100m(root: Path, *, min_videos: int = 100, val_fraction: float = 0.29) -> Listing:
    """Read HowTo100M from `HowTo100M_v1.csv` and `task_ids.csv`.

    The lists are in the root or a folder below it, and the videos anywhere below the root. A video with several tasks is
    labelled with the task in whose search results it ranked highest. Tasks with fewer than `min_videos` listed videos are
    excluded, as in the TimeSformer paper, which kept 1,059 tasks and 120 thousand videos. The paper's split was never
    published. Here, `val_fraction` of each task's listed videos become `val`, which by default is the paper's share. The split
    doesn't depend on which videos exist on disk.
    """
    if min_videos < 1:
        raise InputError(f"min_videos must be at least 1, got {min_videos}.")
    lists = find_lists(root, LISTS)
    titles = _read_titles(lists["tasks"])
    tasks = {task: videos for task, videos in _read_videos(lists["videos"]).items() if len(videos) >= min_videos}
    if not tasks:
        raise InputError(f"No task of {lists['videos']} has {min_videos} videos: give a smaller min_videos.")
    if untitled := next((task for task in tasks if task not in titles), None):
        raise InputError(f"{lists['tasks']} has no title for task {untitled}: take both files from one download.")
    names = {task: titles[task] for task in sorted(tasks, key=lambda task: (len(task), task))}
    uses = Counter(names.values())  # tasks with the same title are distinguished by number
    names = {task: title if uses[title] == 1 else f"{title} ({task})" for task, title in names.items()}
    files = index_files(root)
    gathered = Gathered()
    for task, name in names.items():
        val = val_share(tasks[task], val_fraction)
        for video in tasks[task]:
            gathered.add("val" if video in val else "train", video, next(iter(files.get(video, [])), None), name)
    return gathered.listing(names.values(), files=files)


def _read_videos(path: Path) -> dict[str, list[str]]:
    """Map each task to its videos."""
    best: dict[str, tuple[int, str]] = {}
    for line, row in read_table(path, ("video_id", "rank", "task_id")):
        video, task, rank = row["video_id"], row["task_id"], row["rank"]
        if not video or not task or not rank.isdecimal():
            got = ", ".join(row.values())
            raise InputError(f"{path}, line {line}: expected a video_id, a task_id and a whole number as rank, got {got}.")
        if video not in best or int(rank) < best[video][0]:
            best[video] = int(rank), task
    tasks: dict[str, list[str]] = {}
    for video, (_, task) in best.items():
        tasks.setdefault(task, []).append(video)
    return tasks


def _read_titles(path: Path) -> dict[str, str]:
    """Map each task to its title. The file separates them by a tab or the first comma, and may have a header."""
    titles = {}
    for number, line in read_lines(path):
        task, separator, title = line.partition("\t" if "\t" in line else ",")
        task, title = task.strip().strip('"'), title.strip().strip('"')
        if not task.isdecimal() and number == 1:
            continue
        if not separator or not task.isdecimal() or not title:
            raise InputError(f"{path}, line {number}: expected a task's number, a tab and its title, got {line!r}.")
        titles[task] = title
    return titles
