"""Contact sheet of clips: one strip of frames per clip, with its title."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.extras import needs
from timesformer_jax.os_errors import sentence
from timesformer_jax.printable import printable


def draw_clips(path: epath.Path, clips: UInt8[ndarray, "B T H W 3"], titles: Sequence[str]) -> None:
    """Write a PNG with a row per clip: its frames from left to right, with its title above.

    Raises:
        InputError: If matplotlib isn't installed, or `path` can't be written.
    """
    with needs("matplotlib", "Drawing"):
        from matplotlib.figure import Figure

    count, num_frames, height, width, _ = clips.shape
    strips = np.full((count, height, num_frames * (width + 2), 3), 255, np.uint8)
    for frame in range(num_frames):
        strips[:, :, frame * (width + 2) : frame * (width + 2) + width] = clips[:, frame]
    across = 12.0  # inches
    figure = Figure(figsize=(across, count * (across * height / strips.shape[2] + 0.3)), layout="constrained")
    for axis, strip, title in zip(figure.subplots(count, 1, squeeze=False)[:, 0], strips, titles, strict=True):
        axis.imshow(strip, interpolation="nearest")
        axis.set_title(printable(title), fontsize=9, loc="left", parse_math=False)
        axis.axis("off")
    picture = io.BytesIO()  # matplotlib can't write to a bucket
    figure.savefig(picture, dpi=100, format="png")
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {path}")) from error
