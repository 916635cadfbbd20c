"""Published checkpoints: their location, accuracy and preprocessing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from timesformer_jax.errors import InputError, did_you_mean, first_line
from timesformer_jax.extras import needs
from timesformer_jax.video import Preprocess


class Dataset(NamedTuple):
    """A data set, and the settings in which the official data loaders differ between data sets."""

    title: str
    """Name of the data set."""
    num_classes: int
    """Number of classes of the models trained on it."""
    sampling: str = "uniform"
    """Sampling of a clip's frames, as in `Preprocess`."""
    channel_order: str = "rgb"
    """Order of the channels, as in `Preprocess`."""


DATASETS: dict[str, Dataset] = {
    "k400": Dataset("Kinetics-400", 400),
    "k600": Dataset("Kinetics-600", 600),
    # OpenCV reads its frames, and they stay BGR: the official switch to RGB has no effect for this model.
    "ssv2": Dataset("Something-Something v2", 174, sampling="segments", channel_order="bgr"),
    "howto100m": Dataset("HowTo100M", 1059),
}
"""Source: official `datasets/kinetics.py` and `datasets/ssv2.py`."""


class Published(NamedTuple):
    """A released checkpoint. All have divided space-time attention, base width and 16 x 16 patches."""

    dataset: str
    """Data set, a key of `DATASETS`."""
    num_frames: int
    """Number of frames of a clip."""
    image_size: int
    """Side of the square frames in pixels."""
    sampling_rate: float
    """Distance between sampled frames, in frames at 30 fps; unused if frames are sampled from segments of the whole video."""
    top1: float
    """Top-1 accuracy in %, with three crops of one clip (HowTo100M: all clips), as published with the file."""
    top5: float | None
    """Top-5 accuracy in %; None if unpublished."""
    file: str
    """Name of the file."""
    url: str
    """Address of the file."""
    repository: str | None = None
    """Repository on the Hugging Face Hub with the same weights; None if there is none."""

    @property
    def preprocess(self) -> Preprocess:
        """The official test transform, with mean 0.45 and standard deviation 0.225 for all checkpoints."""
        dataset = DATASETS[self.dataset]
        whole = self.image_size if self.image_size == 448 or dataset.sampling == "segments" else 256
        return Preprocess(
            num_frames=self.num_frames,
            crop_size=self.image_size,
            sampling=dataset.sampling,
            sampling_rate=self.sampling_rate,
            channel_order=dataset.channel_order,
            short_side=whole,
        )


def _published(
    dataset: str,
    num_frames: int,
    size: int,
    rate: float,
    top1: float,
    top5: float | None,
    path: str,
    repository: str | None = None,
) -> Published:
    url = f"https://www.dropbox.com/s/{path}?dl=1"
    return Published(dataset, num_frames, size, rate, top1, top5, path.partition("/")[2], url, repository)


# fmt: off
ZOO: dict[str, Published] = {
    "timesformer-base-k400": _published(
        "k400", 8, 224, 32, 77.9, 93.2, "g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth",
        "facebook/timesformer-base-finetuned-k400",
    ),
    "timesformer-hr-k400": _published(
        "k400", 16, 448, 16, 79.6, 94.0, "6f0x172lpqy3oxt/TimeSformer_divST_16x16_448_K400.pyth",
        "facebook/timesformer-hr-finetuned-k400",
    ),
    "timesformer-large-frames-k400": _published(
        "k400", 96, 224, 4, 80.6, 94.7, "r1iuxahif3sgimo/TimeSformer_divST_96x4_224_K400.pyth"
    ),
    "timesformer-base-k600": _published(
        "k600", 8, 224, 32, 79.1, 94.4, "4h2qt41m2z3aqrb/TimeSformer_divST_8x32_224_K600.pyth",
        "facebook/timesformer-base-finetuned-k600",
    ),
    "timesformer-hr-k600": _published(
        "k600", 16, 448, 16, 81.8, 95.8, "ft1e92g2vhvxecv/TimeSformer_divST_16x16_448_K600.pyth",
        "facebook/timesformer-hr-finetuned-k600",
    ),
    "timesformer-large-frames-k600": _published(
        "k600", 96, 224, 4, 82.2, 95.6, "857rx6xeclxfhdg/TimeSformer_divST_96x4_224_K600.pyth"
    ),
    "timesformer-base-ssv2": _published(
        "ssv2", 8, 224, 32, 59.1, 85.6, "tybhuml57y24wpm/TimeSformer_divST_8_224_SSv2.pyth",
        "facebook/timesformer-base-finetuned-ssv2",
    ),
    "timesformer-hr-ssv2": _published(
        "ssv2", 16, 448, 32, 61.8, 86.9, "9t68uzk8w2fpfnv/TimeSformer_divST_16_448_SSv2.pyth",
        "facebook/timesformer-hr-finetuned-ssv2",
    ),
    "timesformer-large-frames-ssv2": _published(
        "ssv2", 64, 224, 32, 62.0, 87.5, "3f1rm2al8mhprwa/TimeSformer_divST_64_224_SSv2.pyth"
    ),
    "timesformer-8x32-howto100m": _published(
        "howto100m", 8, 224, 32, 56.8, None, "9v8hcm88b9tc6ff/TimeSformer_divST_8x32_224_HowTo100M.pyth"
    ),
    "timesformer-32x32-howto100m": _published(
        "howto100m", 32, 224, 32, 61.2, None, "4roflx4q1gscu85/TimeSformer_divST_32x32_224_HowTo100M.pyth"
    ),
    # The official README says 448 pixels for this one, but the file name and the configuration say 224.
    "timesformer-64x32-howto100m": _published(
        "howto100m", 64, 224, 32, 62.2, None, "15bvqltl1j5vyp3/TimeSformer_divST_64x32_224_HowTo100M.pyth"
    ),
    "timesformer-96x32-howto100m": _published(
        "howto100m", 96, 224, 32, 62.6, None, "t2mzgahnfhgakma/TimeSformer_divST_96x32_224_HowTo100M.pyth"
    ),
}
# fmt: on
"""Maps names to published checkpoints, which are licensed under CC BY-NC 4.0.

Source: the official README's model zoo, and the organisation `facebook` on the Hugging Face Hub.
"""


def locate(source: str | Path) -> Path:
    """Return the path of weights: `source` itself if it exists or is in a bucket, else the download that it names.

    Raises `InputError` if there are no such weights, or if they can't be downloaded.
    """
    name = str(source)
    if name.startswith(("http://", "https://")):
        raise InputError(f"Download {source} and give the path of the file.")
    if "://" in name:  # in a bucket
        with needs("etils", f"Reading {name}"):
            from etils import epath
        return cast(Path, epath.Path(name))
    try:
        path = Path(source).expanduser()
        exists = bool(name) and path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name[:80]!r} can't be a path: {getattr(error, 'strerror', None) or first_line(error)}.") from error
    if exists:
        return path
    if ("/" in name and not name.startswith("hf:")) or path.suffix:
        raise InputError(f"There is no file or folder {source}.")
    return fetch(name)


def fetch(name: str) -> Path:
    """Return the folder of a name in `ZOO`, or of `hf:ORGANISATION/MODEL`, from the cache or the Hugging Face Hub.

    Raises `InputError` if the name is unknown, if the weights are only published as a file (the message has its address), or if
    the download fails.
    """
    if name.startswith("hf:"):
        return _fetch_repository(name.removeprefix("hf:"))
    if name not in ZOO:
        raise InputError(
            f"There is no file or folder {name}, and no published model of this name. Known: {', '.join(ZOO)}."
            f"{did_you_mean(name, ZOO)}"
        )
    published = ZOO[name]
    if published.repository is None:
        raise InputError(f"{name} is only published as a file: download {published.url} and load {published.file} by its path.")
    return _fetch_repository(published.repository)


SIDECARS = (
    "config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
)
"""Configurations downloaded with the weights."""
REPOSITORY_WEIGHTS = (
    ("model*.safetensors", "model*.safetensors.index*.json"),
    ("*.safetensors", "*.safetensors.index*.json"),
    ("pytorch_model*",),
    ("open_clip_pytorch_model.bin",),
)
"""Patterns of a repository's weight files; the first group that it has is downloaded."""


def _fetch_repository(repository: str) -> Path:
    with needs("huggingface_hub", "Fetching models"):
        from huggingface_hub import errors, snapshot_download

    try:
        for weights in REPOSITORY_WEIGHTS:
            folder = Path(snapshot_download(repository, allow_patterns=[*SIDECARS, *weights]))
            if any(folder.glob(weights[0])):
                break
        else:
            raise InputError(
                f"{repository} has no weights in a readable format, or its copy in the cache {folder} is incomplete: connect "
                "to the internet and load it again."
            )
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{repository} is not in the cache, and the Hugging Face Hub can't be reached: connect to the internet once, or "
            "give the path of a copy."
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise InputError(f"Can't fetch {repository} from the Hugging Face Hub: {first_line(error)}.") from error
    return folder


def name_of(source: str) -> str | None:
    """Return the name in `ZOO` of a source, which may also be given by its repository; None if it isn't in `ZOO`."""
    repositories = {f"hf:{row.repository}": name for name, row in ZOO.items() if row.repository}
    return source if source in ZOO else repositories.get(source)


def published_as(fields: Mapping[str, Any]) -> str | None:
    """Name the published checkpoint with the same frames, size, classes and architecture; None if there is none."""
    for name, published in ZOO.items():
        expected = {
            "num_frames": published.num_frames,
            "image_size": published.image_size,
            "num_classes": DATASETS[published.dataset].num_classes,
            "attention_type": "divided_space_time",
            "embed_dim": 768,
            "depth": 12,
            "patch_size": 16,
        }
        if all(fields.get(field) == value for field, value in expected.items()):
            return name
    return None
