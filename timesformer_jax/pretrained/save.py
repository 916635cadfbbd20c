"""Save weights as a checkpoint of this project, a Hugging Face folder, a file of the official code or mmaction2, or ONNX."""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timesformer_jax.atomic_write import replacing_folder
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import flatten_params, unstack_blocks, weight_shapes, weights_of
from timesformer_jax.os_errors import name_os_error, sentence
from timesformer_jax.pretrained.convnet_formats import CONVNET_FORMATS, COUNTER
from timesformer_jax.pretrained.file_notes import KEY, notes_for
from timesformer_jax.pretrained.huggingface_config import HUGGINGFACE_ACTIVATIONS, HUGGINGFACE_FIELDS, MULTI_LABEL
from timesformer_jax.pretrained.integrity import open_seal, seal
from timesformer_jax.pretrained.load import load
from timesformer_jax.pretrained.model_card import beyond_pipeline, frames_in_config, model_card
from timesformer_jax.pretrained.onnx import check_exportable, import_onnx, is_large, write_onnx
from timesformer_jax.pretrained.orbax import find_checkpoint, write_checkpoint
from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.pretrained.tensor_files import import_safetensors, import_torch
from timesformer_jax.pretrained.tensor_names import template
from timesformer_jax.pretrained.weight_formats import FORMATS, Format
from timesformer_jax.pretrained.writer_limits import OWN_FORMAT, TARGETS, unsupported
from timesformer_jax.printable import as_utf8, printable

log = logging.getLogger("timesformer_jax")


def save(pretrained: Pretrained, folder: str | Path, *, overwrite: bool = False) -> None:
    """Save a model as a checkpoint of this project (Orbax), which stores everything that `load` returns.

    Works for any model. Raises `InputError` if `folder` exists and `overwrite` isn't set.
    """
    _check_weights(pretrained)
    with _new(folder, overwrite) as unfinished:
        write_checkpoint(unfinished, weights_of(pretrained.params, pretrained.batch_stats), notes_for(pretrained))


def save_huggingface(pretrained: Pretrained, folder: str | Path, *, overwrite: bool = False) -> None:
    """Save a folder that `transformers` loads as `TimesformerForVideoClassification`, with equal logits at the model's size.

    The folder holds `config.json` (with `id2label` and the frame sampling), `model.safetensors`, `preprocessor_config.json` of
    the one-crop view, and a model card, README.md, with the calls that give equal probabilities. Entries that transformers has
    no name for (sampling, channel order) are stored in `preprocessor_config.json` under `timesformer_jax`, for `load`.

    A warning is logged for models whose input transformers' pipeline can't prepare: BGR channels, or frames from segments.

    Raises `InputError` if transformers can't compute the model, and names the fields.
    """
    tensors = _tensors(pretrained, FORMATS["huggingface"], "huggingface")
    model = pretrained.model
    names = pretrained.labels or [f"LABEL_{i}" for i in range(model.num_classes)]  # as transformers calls them
    labels = [as_utf8(name) for name in names]
    acts = {ours: theirs for theirs, ours in reversed(HUGGINGFACE_ACTIVATIONS.items())}
    config = {
        "architectures": ["TimesformerForVideoClassification"],
        "model_type": "timesformer",
        **{theirs: getattr(model, ours) for theirs, (ours, _) in HUGGINGFACE_FIELDS.items()},
        "hidden_act": acts[model.activation],
        "intermediate_size": tensors["timesformer.encoder.layer.0.intermediate.dense.bias"].shape[0],
        "qkv_bias": True,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "dtype": "float32",
        **frames_in_config(pretrained.preprocess),
        **({"problem_type": MULTI_LABEL} if pretrained.objective == "sigmoid" else {}),
    }
    preprocess = pretrained.preprocess
    side, short_side = preprocess.crop_size, preprocess.short_side or preprocess.crop_size
    preprocessor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": short_side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": 2,  # bilinear
        KEY: preprocess.as_dict(),
    }
    described = {"config.json": config, "preprocessor_config.json": preprocessor}
    texts = {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in described.items()}
    with _new(folder, overwrite) as unfinished:
        unfinished.mkdir()
        _save_safetensors(tensors, unfinished / "model.safetensors", files=texts)
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        (unfinished / "README.md").write_text(model_card(pretrained), encoding="utf-8")
    if beyond := beyond_pipeline(preprocess):
        note = f"transformers' pipeline can't prepare {' and '.join(beyond)}: see the model card, README.md"
        log.warning("%s: %s.", folder, note)
        if pretrained.report is not None:
            pretrained.report.notes.append(note)


def save_official(pretrained: Pretrained, file: str | Path, *, overwrite: bool = False) -> None:
    """Save a file that the official code loads: `.safetensors`, which doesn't need torch, or for any other suffix `.pyth`.

    The file also stores what the official code has no name for (labels, preprocessing, number of heads, objective), for `load`.

    Raises `InputError` if the official code can't compute the model, and names the fields.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _tensors(pretrained, FORMATS["official"], "official").items()}
    with _new(file, overwrite) as unfinished:
        if Path(file).suffix == ".safetensors":
            _save_safetensors(tensors, unfinished, {KEY: json.dumps(notes_for(pretrained))})
        else:
            _save_torch({"epoch": 0, "model_state": tensors, KEY: notes_for(pretrained)}, "model_state", unfinished)
    _note_objective(pretrained, "official")


def save_mmaction2(pretrained: Pretrained, file: str | Path, *, overwrite: bool = False) -> None:
    """Save a `.pth` that mmaction2's TimeSformer loads, with the names of the classes.

    The file also stores what mmaction2 has no name for, for `load`.

    Raises `InputError` if mmaction2 can't compute the model, and names the fields.
    """
    divided = getattr(pretrained.model, "attention_type", "divided_space_time") == "divided_space_time"
    tensors = _tensors(pretrained, FORMATS["mmaction2_divided" if divided else "mmaction2"], "mmaction2")
    names = {} if pretrained.labels is None else {"dataset_meta": {"classes": list(pretrained.labels)}}
    with _new(file, overwrite) as unfinished:
        _save_torch({"meta": {**names, KEY: notes_for(pretrained)}, "state_dict": tensors}, "state_dict", unfinished)
    _note_objective(pretrained, "mmaction2")


def save_onnx(pretrained: Pretrained, file: str | Path, *, overwrite: bool = False) -> None:
    """Save an ONNX file, which onnxruntime, OpenVINO and others run without JAX and this library.

    The input `video` is `[batch, T, H, W, C]` with the model's T, H and W, the output `logits` is `[batch, num_classes]`.
    Labels and preprocessing are in the file's metadata. Parameters of more than 2 GB are written to a second file, `FILE.data`,
    to which the first one refers by name. Before anything appears under its name, ONNX's checker accepts the file, and
    its logits in onnxruntime are compared with the model's. `load` can't read the file.

    Raises `InputError` if the model has no classifier, if its dtype isn't float32, or if the logits differ.
    """
    import_onnx()
    check_exportable(pretrained.model)
    _check_weights(pretrained)
    file = Path(file).absolute()
    data = file.with_name(f"{file.name}.data") if is_large(pretrained) else None
    if data is not None:
        _check_free(data, overwrite)
    with _new(file, overwrite) as unfinished:
        difference = write_onnx(pretrained, unfinished, data and data.name)
        if data is not None:
            unfinished.with_name(data.name).replace(data)
    if pretrained.report is not None:
        pretrained.report.notes.append(f"the file's logits in onnxruntime are the model's within {difference:.0e}")


def save_pyslowfast(pretrained: Pretrained, file: str | Path, *, overwrite: bool = False) -> None:
    """Save an I3D or SlowFast under PySlowFast's names: `.safetensors`, or for any other suffix `.pyth`.

    The file also stores what PySlowFast has no name for (labels, preprocessing, objective), for `load`.

    Raises `InputError` if the model isn't an I3D or SlowFast.
    """
    model = pretrained.model
    if not isinstance(model, ConvNet):
        raise InputError(f"PySlowFast's I3D and SlowFast can't hold a {type(model).__name__}: choose another format, to=.")
    _check_weights(pretrained)
    arrays = {**flatten_params(pretrained.params), **flatten_params(pretrained.batch_stats)}
    rows = {row.ours: row for row in CONVNET_FORMATS["pyslowfast"].rows}
    tensors = {}
    for path, array in arrays.items():
        block = re.search(r"res\d_(\d+)/", path)
        row = rows[path if block is None else path[: block.start(1)] + "{i}" + path[block.end(1) :]]
        assert row.layout.write is not None
        name = row.theirs.replace("{i}", "" if block is None else block[1])
        tensors[name] = np.ascontiguousarray(row.layout.write(np.asarray(array)))
        if path.endswith("/bn/var"):
            tensors[f"{name.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
    with _new(file, overwrite) as unfinished:
        if Path(file).suffix == ".safetensors":
            _save_safetensors(tensors, unfinished, {KEY: json.dumps(notes_for(pretrained))})
        else:
            _save_torch({"epoch": 0, "model_state": tensors, KEY: notes_for(pretrained)}, "model_state", unfinished)


WRITERS: dict[str, Callable[..., None]] = {
    "huggingface": save_huggingface,
    "official": save_official,
    "mmaction2": save_mmaction2,
    "pyslowfast": save_pyslowfast,
    OWN_FORMAT: save,
    "onnx": save_onnx,
}
"""Maps each format that `convert` writes to its function; `TARGETS` has their limits."""

SAVED = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
"""Files of a saved folder in Hugging Face's format."""
CHECKPOINT = ("_CHECKPOINT_METADATA", "_METADATA", "orbax.checkpoint", "commit_success.txt", "digests.json", "metrics")
"""Files of a checkpoint of this project besides `STATE`."""
STATE = ("params", "batch_stats", "ema", "opt_state", "counters")
"""Entries of a checkpoint: folders of arrays."""
SUFFIXES = {".pyth": "official", ".safetensors": "official", ".pth": "mmaction2", ".onnx": "onnx", "": "huggingface"}
"""Maps the suffix of a target to its default format."""


def convert(
    source: str | Path, target: str | Path, *, to: str | None = None, overwrite: bool = False, **options: Any
) -> Pretrained:
    """Convert weights to another format.

    Args:
        source: Weights of any format, read by `load(source, **options)`.
        target: File or folder to write.
        to: Format to write, a key of `WRITERS`; by default chosen by the suffix of `target` (see `SUFFIXES`);
            "pyslowfast" for an I3D or SlowFast.
        overwrite: Whether to replace an existing target.
        **options: Arguments of `load`.

    Returns:
        The loaded weights, with their report.

    Raises:
        InputError: If the suffix is unknown, or if the weights can't be read or written. Nothing is left behind.
    """
    suffix = Path(target).suffix
    if to is None and suffix not in SUFFIXES:
        endings = ", ".join(f"{ending or '(none)'} {format}" for ending, format in SUFFIXES.items())
        raise InputError(f"The suffix of {target} is none of {endings}: give its format, to= one of {', '.join(WRITERS)}.")
    format = to or SUFFIXES[suffix]
    if format not in WRITERS:
        raise InputError(f"Can't write {format!r}, only {', '.join(WRITERS)}.")
    _check_free(Path(target), overwrite)
    if format == "onnx":
        import_onnx()
    pretrained = load(source, **options)
    if to is None and format != "onnx" and isinstance(pretrained.model, ConvNet):
        format = "pyslowfast"
    WRITERS[format](pretrained, target, overwrite=overwrite)
    return pretrained


def _tensors(pretrained: Pretrained, format: Format, target: str) -> dict[str, np.ndarray]:
    """Return the parameters under the names and in the layouts of a format; `target` is a key of `TARGETS`."""
    model, reader = pretrained.model, TARGETS[target].reader
    if isinstance(model, ConvNet):
        raise InputError(f'{reader} can\'t compute a {type(model).__name__}: save it with to="pyslowfast".')
    if problems := unsupported(model, target):
        raise InputError(f"{reader} can't compute a model with {', '.join(problems)}: save it with tsf.save instead.")
    _check_weights(pretrained)
    params = flatten_params(unstack_blocks(pretrained.params) if model.scan_layers else pretrained.params)
    rows = {row.ours: row for row in format.rows}
    tensors, homeless = {}, []
    for path, array in params.items():
        general, block = template(path)
        row = rows.get(general)
        if row is None or row.layout.write is None:
            homeless.append(path)
        else:
            tensors[row.theirs.replace("{i}", block)] = np.ascontiguousarray(row.layout.write(np.asarray(array)))
    if homeless:
        raise InputError(f"{reader} has no place for {', '.join(homeless)}.")
    return tensors


def _check_weights(pretrained: Pretrained) -> None:
    """Raise `InputError` unless the weights are the model's: not folded, stacked as it expects, with the right shapes."""
    shapes = {path: leaf.shape for path, leaf in flatten_params(weight_shapes(pretrained.model)).items()}
    weights = weights_of(pretrained.params, pretrained.batch_stats)
    own = {path: np.shape(array) for path, array in flatten_params(weights).items()}
    if own != shapes:
        first = next(path for path in sorted(shapes.keys() | own.keys()) if shapes.get(path) != own.get(path))
        raise InputError(
            f"These parameters aren't the model's: {first} is {own.get(first, 'missing')} instead of "
            f"{shapes.get(first, 'missing')}. If they were folded for inference, save the original parameters."
        )


def _note_objective(pretrained: Pretrained, target: str) -> None:
    """If the model is multi-label, note in the report that the format's reader applies a softmax."""
    if pretrained.objective != "softmax" and pretrained.report is not None:
        pretrained.report.notes.append(
            f"{TARGETS[target].reader} applies a softmax to the logits, and this model is multi-label: apply a sigmoid there "
            "(`load` does)"
        )


def _save_safetensors(
    tensors: dict[str, np.ndarray], path: Path, notes: dict[str, str] | None = None, files: dict[str, str] | None = None
) -> None:
    safetensors = import_safetensors("Writing")
    # transformers refuses files without the entry "format".
    metadata = {"format": "pt", **(notes or {}), **open_seal(files)}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    seal(path)


def _save_torch(content: dict[str, Any], where: str, path: Path) -> None:
    torch = import_torch("Writing a PyTorch file")
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in content[where].items()}
    torch.save({**content, where: tensors}, path)


def _check_free(target: Path, overwrite: bool) -> None:
    """Raise `InputError` if there is no folder to write into, or if something there must not be overwritten."""
    if not target.absolute().parent.is_dir():
        raise InputError(f"There is no folder {target.absolute().parent} to write {target.name} into.")
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} exists: choose another name, or allow overwriting it (overwrite=True, --overwrite).")
    others = _other_files(target) if target.is_dir() else []
    if others:
        raise InputError(f"Overwriting {target} would delete {', '.join(others)}: choose another name, or move what is there.")


def _other_files(folder: Path) -> list[str]:
    """Name at most three things in a folder that aren't part of saved weights."""
    known = {*CHECKPOINT, *STATE} if find_checkpoint(folder) == folder else SAVED
    found = sorted(printable(entry.name) for entry in folder.iterdir() if entry.name not in known)
    return [*found[:3], *([f"{len(found) - 3} more"] if len(found) > 3 else [])]


@contextlib.contextmanager
def _new(target: str | Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path that becomes `target` once everything is written: completely, or not at all."""
    target = Path(target).absolute()
    try:
        _check_free(target, overwrite)
        with replacing_folder(target) as unfinished:
            yield unfinished
    except InputError:
        raise
    except Exception as error:  # of many types: the OS's, safetensors', PyTorch's
        if not isinstance(error, OSError | ValueError) and name_os_error(error) is None:
            raise
        raise InputError(sentence(error, f"Can't write {target}")) from error
