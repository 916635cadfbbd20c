"""Notes inside files of weights: this project's own, mmaction2's `meta`, and the official trainer's YAML."""

import re
from collections.abc import Mapping
from typing import Any

from timesformer_jax.errors import InputError, shown
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained.file_checks import LARGEST_TEXT, parse_json
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


def objective_of_notes(own: Mapping[str, Any]) -> Any:
    """The objective; None if our notes don't say."""
    return own.get("objective") or None


def labels_of_notes(notes: Mapping[str, Any], own: Mapping[str, Any]) -> list[str] | None:
    """The classes' names: ours or mmaction2's."""
    names = (own.get("data") or {}).get("label_names")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    meta = notes.get("meta")
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    classes = meta.get("CLASSES") or (inner.get("classes") if isinstance(inner, Mapping) else None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) and classes else None


def preprocess_of_notes(own: Mapping[str, Any], cfg: Any) -> dict[str, Any]:
    """Entries of `Preprocess`: ours, and above them those of an official file's `cfg`."""
    values = own.get("preprocess")
    values = dict(values) if isinstance(values, Mapping) else {}
    return {**values, **_preprocess_of_official_config(cfg)} if isinstance(cfg, str) else values


def fields_of_official_config(config: Any) -> dict[str, Any]:
    """What the YAML says that the official trainer leaves in its files."""
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


def entries_of_yaml(text: str) -> dict[str, str]:
    """Indented `NAME: value` lines as they stand, of each name the first; the items of a list are joined by spaces.

    Line by line, so that the time is proportional to the text.
    """
    entries: dict[str, list[str]] = {}
    items: list[str] | None = None
    """What the next lines may be further items of."""
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
