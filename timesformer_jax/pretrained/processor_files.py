"""Files in which Hugging Face transformers stores the preprocessing of images and videos."""

from pathlib import Path
from typing import Any

from timesformer_jax.pretrained.config_entries import entry_of
from timesformer_jax.pretrained.file_notes import KEY
from timesformer_jax.pretrained.huggingface_config import PREPROCESSOR
from timesformer_jax.pretrained.sidecar import read_json_next_to

PROCESSOR, VIDEO_PREPROCESSOR = "processor_config.json", "video_preprocessor_config.json"


def read_processor(path: Path) -> tuple[dict[str, Any], str]:
    """Read the preprocessing of a folder of weights, or next to a file, from the first file that has it.

    The order is that of transformers, whose version 5 nests the preprocessing in `processor_config.json`. Our own entry of
    `preprocessor_config.json` is kept whichever file comes first, since only it states sampling and channel order.

    Returns:
        The preprocessing, empty if no file has it, and its name for errors.

    Raises:
        InputError: If a file isn't JSON, or if an entry isn't an object.
    """
    nested, preprocessor = read_json_next_to(path, PROCESSOR), read_json_next_to(path, PREPROCESSOR)
    found = [
        *(
            (entry_of(nested, name, dict, PROCESSOR), f"{PROCESSOR}'s {name}")
            for name in ("video_processor", "image_processor")
        ),
        (read_json_next_to(path, VIDEO_PREPROCESSOR), VIDEO_PREPROCESSOR),
        (preprocessor, PREPROCESSOR),
    ]
    values, source = next(((values, source) for values, source in found if values), ({}, PREPROCESSOR))
    return {**({KEY: preprocessor[KEY]} if KEY in preprocessor else {}), **values}, source
