"""Randomness of clips: a function of (seed, epoch, name of the video), whatever worker reads it and in which order."""

import functools
import hashlib

import numpy as np

from timesformer_jax._typing import Int, ndarray


def identity_of(name: str | bytes, part: int | None = None) -> int:
    """A number below 2^63 for a video's name, or for one part of a long video; the same in every process."""
    data = name.encode() if isinstance(name, str) else name
    data += b"" if part is None else b"#%d" % part
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def clip_generator(seed: int, epoch: int, identity: int) -> np.random.Generator:
    """The generator that draws the training clips of a video's part, by its `identity_of`, in an epoch."""
    return np.random.default_rng([seed, epoch, identity])


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_videos: int) -> Int[ndarray, "num_videos"]:
    """The order of an epoch: a permutation of the videos' numbers, read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(num_videos)
    order.flags.writeable = False
    return order
