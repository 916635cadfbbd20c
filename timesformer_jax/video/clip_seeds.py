"""Randomness of clips: a function of (seed, epoch, video name), independent of the worker and of the reading order."""

import functools
import hashlib

import numpy as np

from timesformer_jax._typing import Int, ndarray


def identity_of(name: str | bytes, part: int | None = None) -> int:
    """Hash a video's name, or one segment of a long video, to a number below 2^63 that is the same in every process."""
    data = name.encode() if isinstance(name, str) else name
    data += b"" if part is None else b"#%d" % part
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def clip_generator(seed: int, epoch: int, identity: int) -> np.random.Generator:
    """Return the generator for the clips that training draws in an epoch from the video segment with this `identity_of`."""
    return np.random.default_rng([seed, epoch, identity])


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_videos: int) -> Int[ndarray, "num_videos"]:
    """Return the order of the videos in an epoch: a read-only permutation of their numbers."""
    order = np.random.default_rng([seed, epoch]).permutation(num_videos)
    order.flags.writeable = False
    return order
