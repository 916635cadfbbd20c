"""Contact sheet of clips: one strip of frames per clip, with its title."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from timesformer_jax._typing import UInt8, ndarray
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.os_errors import sentence
from timesformer_jax.plotting import encode_figure, new_figure
from timesformer_jax.printable import printable


def draw_clips(path: epath.Path, clips: UInt8[ndarray, "B T H W 3"], titles: Sequence[str]) -> None:
    """Write a PNG with a row per clip: its frames from left to right, with its title above.

    Raises:
        InputError: If matplotlib isn't installed, or `path` can't be written.
    """
    count, num_frames, height, width, _ = clips.shape
    strips = np.full((count, height, num_frames * (width + 2), 3), 255, np.uint8)
    for frame in range(num_frames):
        strips[:, :, frame * (width + 2) : frame * (width + 2) + width] = clips[:, frame]
    across = 12.0  # inches
    with new_figure(across, count * (across * height / strips.shape[2] + 0.3)) as figure:
        for axis, strip, title in zip(figure.subplots(count, 1, squeeze=False)[:, 0], strips, titles, strict=True):
            axis.imshow(strip, interpolation="nearest")
            axis.set_title(printable(title), fontsize=9, loc="left")
            axis.axis("off")
        picture = encode_figure(figure, dpi=100)  # matplotlib can't write to a bucket
    try:
        write_whole(path, picture)
    except OSError as error:
        raise InputError(sentence(error, f"Can't write {path}")) from error
