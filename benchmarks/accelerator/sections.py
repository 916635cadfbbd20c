"""All sections in the order in which they run, most informative first."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.accelerator import attention, card, feeding, peer, profile, systems, whole_model
from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timing import Measurement


class Section(NamedTuple):
    """A group of measurements.

    Attributes:
        measurements: Returns the measurements for a size.
        environment: Additional variables for its process.
        compiles: Whether its programs are worth compiling ahead of time, in parallel.
    """

    measurements: Callable[[Size], list[Measurement]]
    environment: Mapping[str, str] = {}
    compiles: bool = True


SECTIONS: dict[str, Section] = {
    "card": Section(card.measurements, compiles=False),
    "forward": Section(whole_model.forward_measurements),
    "train": Section(whole_model.train_measurements),
    "profile": Section(profile.measurements, profile.ENVIRONMENT),
    "attention": Section(attention.measurements),
    "remat": Section(whole_model.remat_measurements),
    "long_clips": Section(whole_model.long_clip_measurements),
    "systems": Section(systems.measurements),
    "augmentation": Section(feeding.augmentation_measurements),
    "copies": Section(feeding.copy_measurements),
    "peer_first": Section(peer.first_measurements, peer.ENVIRONMENT),
    "peer": Section(peer.measurements, peer.ENVIRONMENT),
}
"""Maps each name to its section."""
