"""`--mode=show`: clips as the model gets them, drawn."""

import logging
from typing import Any

import jax
import numpy as np
from etils import epath

from experiment.setup import Job
from input_pipeline import (
    WINDOW_AXES,
    PixelOptions,
    draw_clips,
    mix_clips,
    prepare_test,
    prepare_training,
    test_batches,
    training_batches,
)
from timesformer_jax.video import denormalize

log = logging.getLogger("timesformer_jax")


def show(job: Job, num_clips: int = 8) -> None:
    """Draws the first clips that training and testing get, after all that happens to them: train.png, and one of the split."""
    key, mix_key = jax.random.split(jax.random.key(job.config.seed))
    num_clips = max(num_clips // job.clips.clips_per_video, 1) * job.clips.clips_per_video
    batch = next(
        training_batches(job.data, "train", job.clips, batch_size=num_clips, seed=job.config.seed, first_clip=0, part=(0, 1))
    )
    names = job.data.label_names
    titles = [_name(label, names) for label in batch["label"]]
    video = prepare_training(key, jax.tree.map(jax.numpy.asarray, batch), options=job.pixels)
    if job.mixing.mixes:
        video, others, share = mix_clips(mix_key, video, jax.numpy.asarray(batch["label"]), options=job.mixing)
        titles = [
            f"{own}: {part:.0%}, {_name(other, names)}: {1 - part:.0%}"
            for own, other, part in zip(titles, np.asarray(others), share, strict=True)
        ]
    _draw(job, "train", video, titles)
    views = {"num_clips": 1, "num_crops": 1}
    tested = next(test_batches(job.data, job.config.eval.split, job.clips, batch_size=num_clips, part=(0, 1), **views))
    real = tested["mask"]
    titles = [
        f"{_name(label, names)}: {name.decode(errors='replace')}"
        for label, name in zip(tested["label"][real], tested["name"][real], strict=True)
    ]
    clips = {name: jax.numpy.asarray(tested[name][real]) for name in WINDOW_AXES}
    _draw(job, job.config.eval.split, prepare_test(clips, options=job.pixels), titles)
    log.info("See %s/train.png and %s.png.", job.workdir, job.config.eval.split)


def _draw(job: Job, name: str, clips: jax.Array, titles: list[str]) -> None:
    if jax.process_index() == 0:
        draw_clips(epath.Path(job.workdir) / f"{name}.png", pictures(clips, job.pixels), titles)


def _name(label: Any, names: list[str]) -> str:
    """A clip's label, or its labels."""
    return names[label] if np.ndim(label) == 0 else " + ".join(names[i] for i in np.flatnonzero(label)) or "none"


def pictures(clips: jax.Array, pixels: PixelOptions) -> np.ndarray:
    """uint8 RGB again, after all that happened to them."""
    return denormalize(clips, pixels.mean, pixels.std, pixels.channel_order)
