"""Notes inside weight files: this project's own, mmaction2's `meta`, and the official trainer's YAML."""

import re
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError, shown
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained.file_checks import LARGEST_TEXT, parse_json
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.zoo import DATASETS

KEY = "timesformer_jax"
"""Key of our notes in files of other formats, whose readers ignore it."""


def notes_for(pretrained: Pretrained) -> dict[str, Any]:
    """Return everything that `load` needs but can't infer from the tensors, in JSON types."""
    return {
        "model": describe_model(pretrained.model),
        "data": {"label_names": None if pretrained.labels is None else list(pretrained.labels)},
        "preprocess": pretrained.preprocess.as_dict(),
        "objective": pretrained.objective,
    }


def notes_of_ours(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes that `notes_for` wrote to the file: as text in a safetensors file, under `meta` in mmaction2's."""
    meta = notes.get("meta")
    own = notes.get(KEY) or (meta.get(KEY) if isinstance(meta, Mapping) else None)
    if isinstance(own, str):
        own = parse_json(own, "the notes of timesformer_jax in the file")
    if not isinstance(own, Mapping):
        return {}
    return {name: value for name, value in own.items() if name == "objective" or isinstance(value, Mapping)}


def fields_of_notes(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model fields in our notes that can't be inferred from the tensors."""
    model = own.get("model", {})
    return {name: model[name] for name in ("num_heads", "num_frames", "layer_norm_epsilon", "activation") if name in model}


def objective_of_notes(own: Mapping[str, Any]) -> Any:
    """Return the objective; None if our notes don't state it."""
    return own.get("objective") or None


def labels_of_notes(notes: Mapping[str, Any], own: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes from our notes, else from mmaction2's."""
    names = (own.get("data") or {}).get("label_names")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    meta = notes.get("meta")
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    classes = meta.get("CLASSES") or (inner.get("classes") if isinstance(inner, Mapping) else None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) and classes else None


def preprocess_of_notes(own: Mapping[str, Any], cfg: Any, *, convnet: bool = False) -> dict[str, Any]:
    """Return entries of `Preprocess`: those of our notes, overridden by those of an official file's `cfg`.

    Args:
        own: Our notes.
        cfg: The official trainer's YAML; anything but text is ignored.
        convnet: Whether the file is PySlowFast's of a convolutional network.
    """
    values = own.get("preprocess")
    values = dict(values) if isinstance(values, Mapping) else {}
    return {**values, **_preprocess_of_official_config(cfg, convnet=convnet)} if isinstance(cfg, str) else values


def objective_of_official_config(config: Any) -> str | None:
    """Return "sigmoid" for the YAML of a multi-label model of the official trainer or PySlowFast, else None."""
    if not isinstance(config, str):
        return None
    said = entries_of_yaml(config)
    loss, activation = (said.get(name, "").strip("'\"").lower() for name in ("LOSS_FUNC", "HEAD_ACT"))
    return "sigmoid" if loss.startswith("bce") or activation == "sigmoid" else None


def fields_of_official_config(config: Any) -> dict[str, Any]:
    """Return the model fields in the YAML that the official trainer stores in its files."""
    if not isinstance(config, str):
        return {}
    said = entries_of_yaml(config)
    fields: dict[str, Any] = {}
    if re.fullmatch(r"\w+", said.get("ATTENTION_TYPE", "")):
        fields["attention_type"] = said["ATTENTION_TYPE"]
    for theirs, ours in (("NUM_FRAMES", "num_frames"), ("NUM_CLASSES", "num_classes")):
        if said.get(theirs):
            if not re.fullmatch(r"[0-9]{1,9}", said[theirs]):
                raise InputError(f"The file's cfg says {theirs}: {shown(said[theirs])}, expected a whole number.")
            fields[ours] = int(said[theirs])
    return fields


def _preprocess_of_official_config(config: str, *, convnet: bool) -> dict[str, Any]:
    """Return the entries of `Preprocess` in the official YAML."""
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
        # PySlowFast swaps the channels of the frames for its convolutional networks, but not for a TimeSformer.
        swapped = convnet and said.get("REVERSE_INPUT_CHANNEL", "").lower() == "true"
        order = {"bgr": "rgb", "rgb": "bgr"}[dataset.channel_order] if swapped else dataset.channel_order
        values |= {"sampling": dataset.sampling, "channel_order": order}
    return values


NUMBER = r"\d+(?:\.\d+)?"


def entries_of_yaml(text: str) -> dict[str, str]:
    """Return the indented `NAME: value` lines as text: the first value of each name, with list items joined by spaces.

    Reads line by line, so that the time is linear in the length of the text.
    """
    entries: dict[str, list[str]] = {}
    items: list[str] | None = None
    """The list that following lines may extend."""
    for line in text[:LARGEST_TEXT].splitlines():
        entry = line.strip()
        if entry.startswith("-") and items is not None:
            items.append(entry[1:].strip())
        elif entry:
            name, colon, value = entry.partition(":")
            items = None
            if colon and line[0] in " \t" and name not in entries:
                entries[name] = [value.strip()]
                items = None if value.strip() else entries[name]
    return {name: " ".join(parts).strip() for name, parts in entries.items()}
