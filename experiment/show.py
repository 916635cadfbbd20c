"""`--mode=show`: draw clips as the model receives them."""

import logging
from typing import Any

import jax
import numpy as np
from etils import epath

from experiment.setup import Run
from input_pipeline import (
    WINDOW_AXES,
    EvalViews,
    PixelOptions,
    draw_clips,
    eval_batches,
    mix_clips,
    prepare_training,
    training_batches,
)
from timesformer_jax.video import denormalize

log = logging.getLogger("timesformer_jax")


def show(run: Run, num_clips: int = 8) -> None:
    """Draw the first clips of training and of evaluation, fully prepared, as train.png and SPLIT.png."""
    key, mix_key = jax.random.split(jax.random.key(run.config.seed))
    num_clips = max(num_clips // run.data.clips.clips_per_video, 1) * run.data.clips.clips_per_video
    batch = next(
        training_batches(
            run.data.dataset, "train", run.data.clips, batch_size=num_clips, seed=run.config.seed, first_clip=0, shard=(0, 1)
        )
    )
    names = run.data.label_names
    titles = [_name(label, names) for label in batch["label"]]
    video = prepare_training(key, jax.tree.map(jax.numpy.asarray, batch), options=run.model.pixels)
    if run.model.mixing.mixes:
        video, others, share = mix_clips(mix_key, video, jax.numpy.asarray(batch["label"]), options=run.model.mixing)
        titles = [
            f"{own}: {part:.0%}, {_name(other, names)}: {1 - part:.0%}"
            for own, other, part in zip(titles, np.asarray(others), share, strict=True)
        ]
    _draw(run, "train", video, titles)
    one = EvalViews()
    tested = next(
        eval_batches(run.data.dataset, run.config.eval.split, run.data.clips, batch_size=num_clips, views=one, shard=(0, 1))
    )
    real = tested["mask"]
    titles = [
        f"{_name(label, names)}: {name.decode(errors='replace')}"
        for label, name in zip(tested["label"][real], tested["name"][real], strict=True)
    ]
    clips = {name: jax.numpy.asarray(tested[name][real]) for name in WINDOW_AXES}
    _draw(run, run.config.eval.split, run.model.prepare_eval(clips), titles)
    log.info("See %s/train.png and %s.png.", run.workdir, run.config.eval.split)


def _draw(run: Run, name: str, clips: jax.Array, titles: list[str]) -> None:
    if jax.process_index() == 0:
        draw_clips(epath.Path(run.workdir) / f"{name}.png", pictures(clips, run.model.pixels), titles)


def _name(label: Any, names: list[str]) -> str:
    """Name of a clip's label, or of its labels."""
    return names[label] if np.ndim(label) == 0 else " + ".join(names[i] for i in np.flatnonzero(label)) or "none"


def pictures(clips: jax.Array, pixels: PixelOptions) -> np.ndarray:
    """Convert prepared clips back to uint8 RGB."""
    return denormalize(clips, pixels.mean, pixels.std, pixels.channel_order)
