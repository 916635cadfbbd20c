"""What stands beside the tensors: labels, preprocessing, and what this project itself writes there."""

import math
import re
from collections.abc import Mapping
from typing import Any

from timesformer_jax.labels import names_in_order
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained.config_entries import entry_of, read_statistics
from timesformer_jax.pretrained.file_checks import parse_json
from timesformer_jax.pretrained.infer_config import read_entries
from timesformer_jax.pretrained.official_yaml import entries_of_yaml
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.zoo import DATASETS

KEY = "timesformer_jax"
"""Where our notes are in the files of others, which leave them alone."""


def notes_for(pretrained: Pretrained) -> dict[str, Any]:
    """What `load` needs and tensors don't tell, as JSON."""
    return {
        "model": describe_model(pretrained.model),
        "data": {"label_names": None if pretrained.labels is None else list(pretrained.labels)},
        "preprocess": pretrained.preprocess.as_dict(),
        "objective": pretrained.objective,
    }


def notes_of_ours(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What `notes_for` gave when the file was written: in a safetensors file as text, in mmaction2's under `meta`."""
    meta = notes.get("meta")
    own = notes.get(KEY) or (meta.get(KEY) if isinstance(meta, Mapping) else None)
    if isinstance(own, str):
        own = parse_json(own, "the notes of timesformer_jax in the file")
    if not isinstance(own, Mapping):
        return {}
    return {name: value for name, value in own.items() if name == "objective" or isinstance(value, Mapping)}


def fields_of_notes(own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the model that its tensors don't show."""
    model = own.get("model", {})
    return {name: model[name] for name in ("num_heads", "num_frames", "layer_norm_epsilon", "activation") if name in model}


MULTI_LABEL = "multi_label_classification"
"""`problem_type` of a Hugging Face configuration whose classes are independent of one another."""


def objective_of(config: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """The objective by our notes or a Hugging Face `config.json`; None if neither says."""
    return own.get("objective") or ("sigmoid" if config.get("problem_type") == MULTI_LABEL else None)


def labels_of(config: Mapping[str, Any], notes: Mapping[str, Any], own: Mapping[str, Any]) -> list[str] | None:
    """The classes' names: a Hugging Face configuration's, mmaction2's, or ours."""
    names = (own.get("data") or {}).get("label_names")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    if isinstance(config.get("id2label"), Mapping):
        names = names_in_order(config["id2label"], "config.json's id2label")
        # What transformers writes where there are no names.
        return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names
    meta = notes.get("meta")
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    classes = meta.get("CLASSES") or (inner.get("classes") if isinstance(inner, Mapping) else None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) and classes else None


def preprocess_of_notes(preprocessor: Mapping[str, Any], cfg: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of `Preprocess`: a folder's `preprocessor_config.json`, an official file's `cfg`, ours."""
    values = _statistics(preprocessor)
    for further in (preprocessor.get(KEY), own.get("preprocess")):
        values |= further if isinstance(further, Mapping) else {}
    return {**values, **_preprocess_of_official_config(cfg)} if isinstance(cfg, str) else values


PREPROCESSOR = "preprocessor_config.json"


def _statistics(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of pixels from 0 to 1."""
    if entry_of(preprocessor, "do_normalize", bool, PREPROCESSOR) is False:
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    values = read_statistics(preprocessor, "image_mean", "image_std", PREPROCESSOR)
    factor = read_entries(preprocessor, {"rescale_factor": ("factor", float)}, PREPROCESSOR).get("factor", 1 / 255)
    scale = 255.0 if entry_of(preprocessor, "do_rescale", bool, PREPROCESSOR) is False else 255 * factor
    if math.isclose(scale, 1, rel_tol=1e-3):
        return values
    return {name: [number / scale for number in numbers] for name, numbers in values.items()}


RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""`resample` of a `preprocessor_config.json`, the number of Pillow's filter -> its name."""


def scaling_of_images(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Size and interpolation in an image model's `preprocessor_config.json`, as entries of `Preprocess`."""
    values: dict[str, Any] = {}
    size, crop = (_side(preprocessor, name) for name in ("size", "crop_size"))
    crop = None if entry_of(preprocessor, "do_center_crop", bool, PREPROCESSOR) is False else crop
    if size or crop:
        values["crop_size"] = crop or size
        values["short_side"] = max(size or 0, crop or 0)
    filter_number = preprocessor.get("resample")
    if isinstance(filter_number, int) and 0 <= filter_number < len(RESAMPLINGS):
        values["interpolation"] = RESAMPLINGS[filter_number]
    return values


def _side(preprocessor: Mapping[str, Any], name: str) -> int | None:
    """The short side of `size` or `crop_size`: a number, or an object of `shortest_edge` or of `height` and `width`."""
    value = preprocessor.get(name)
    given = value if isinstance(value, Mapping) else {"shortest_edge": value}
    table = {entry: (entry, int) for entry in ("shortest_edge", "height", "width")}
    return min(read_entries(given, table, f"{PREPROCESSOR}'s {name}").values(), default=None)


def _preprocess_of_official_config(config: str) -> dict[str, Any]:
    """The few entries of the official YAML that decide how a video is prepared."""
    said = entries_of_yaml(config)
    values: dict[str, Any] = {}
    if "SAMPLING_RATE" in said and re.fullmatch(NUMBER, said["SAMPLING_RATE"]):
        values["sampling_rate"] = float(said["SAMPLING_RATE"])
    for theirs, ours in (("MEAN", "mean"), ("STD", "std")):
        numbers = [float(found) for found in re.findall(NUMBER, said.get(theirs, ""))]
        if len(numbers) == 3:
            values[ours] = numbers
    if said.get("DATASET"):
        dataset = DATASETS["ssv2"] if said["DATASET"].lower() == "ssv2" else DATASETS["k400"]
        values |= {"sampling": dataset.sampling, "channel_order": dataset.channel_order}
    return values


NUMBER = r"\d+(?:\.\d+)?"
