"""Every kind of file that the project writes and reads back, with its readers."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import world as worlds
from benchmarks.faults.damage import ROWS, Kind
from benchmarks.faults.world import STEPS, World, digest_arrays

NEWEST, OLDER = str(STEPS), str(STEPS - worlds.CHECKPOINT_EVERY)


def config_of(world: Path, workdir: Path, data: Path | None = None, **changed: Any) -> Any:
    """Return the config of the runs."""
    from configs import folder

    config = folder.get_config()
    config.lock()
    known = World(world)
    fields = {**worlds.MODEL, **changed, "data.root": str(known.videos), "data.data_dir": str(data or known.data)}
    with config.ignore_type():
        config.update_from_flattened_dict(fields)
    return config


def _loaded(path: Path) -> dict[str, Any]:
    """Describe the result of `tsf.load`."""
    import timesformer_jax as tsf
    from timesformer_jax.modeling import describe_model

    found = tsf.load(path, num_heads=worlds.MODEL["model.num_heads"])
    return {
        "params": digest_arrays(found.params),
        "labels": found.labels,
        "model": describe_model(found.model),
        "preprocess": found.preprocess.as_dict(),
        "objective": found.objective,
    }


@functools.cache
def load_at(name: str = "") -> Callable[[Path], Any]:
    """Return a reader that loads a path below the copied folder with `tsf.load`."""
    return lambda folder: _loaded(folder / name)


def _run(checkpoints: Path, *, trains: bool, **changed: Any) -> Any:
    """Set up the run of a workdir like main.py."""
    from experiment.follow import follow_weights
    from experiment.setup import set_up

    workdir = checkpoints.parent
    mode = "train" if trains else "eval"
    config = follow_weights(config_of(workdir.parent.parent, workdir, **changed), str(workdir), mode)
    return set_up(config, str(workdir), mode, lock=False)


@functools.cache
def evaluated(which: str) -> Callable[[Path], Any]:
    """Return a reader of the parameters that `--mode=eval` evaluates, and of their step."""

    def read(checkpoints: Path) -> Any:
        run = _run(checkpoints, trains=False, **{"eval.checkpoint": which})
        try:
            params, step = run.files.restore_params(run.model)
            return {"params": digest_arrays(params), "step": step, "labels": run.data.label_names}
        finally:
            run.files.checkpoints.close()

    return read


def resumed(checkpoints: Path) -> Any:
    """Read the state that training resumes from, and its position in the data."""
    from experiment import train
    from timesformer_jax import training

    run = _run(checkpoints, trains=True)
    try:
        times: dict[str, Any] = {"num_epochs": STEPS / worlds.STEPS_PER_EPOCH, "steps_per_epoch": worlds.STEPS_PER_EPOCH}
        optimizer = training.make_optimizer(**run.config.optimizer, depth=run.model.module.depth, **times)
        state = train._begin(run, optimizer.transformation, STEPS)
        return {"state": digest_arrays(state), "pipeline": run.files.checkpoints.pipeline}
    finally:
        run.files.checkpoints.close()


def _without_newest(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / NEWEST)


def prepared(data: Path) -> Any:
    """Read the labels and every record of prepared data."""
    from input_pipeline import open_dataset

    dataset = open_dataset(**config_of(data.parent.parent, data, data).data)
    return {
        "labels": dataset.label_names,
        "skipped": dataset.left_out,
        "damaged": dataset.damaged,
        "names": {split: dataset.facts(split, "name").tolist() for split in ("train", "val")},
        "records": {split: _records(dataset, split) for split in ("train", "val")},
        "described": {split: dataset.describe(split) for split in ("train", "val")},
    }


def _records(dataset: Any, split: str) -> list[str]:
    records = dataset.records(split)
    return [_digest_example(records[number]) for number in range(len(records))]


def _digest_example(example: Any) -> str:
    features = example.features.feature
    return worlds.digest_bytes(b"".join(name.encode() + features[name].SerializeToString() for name in sorted(features)))


def modified_since(data: Path) -> Any:
    """Read the recorded videos and their times, from which the warning about modified videos is derived."""
    from etils import epath

    from input_pipeline import sources

    folder = next(data.glob("**/source.json")).parent
    return sorted(sources._recorded(epath.Path(folder)))


def finished(data: Path) -> Any:
    """Resume a killed preparation from its record files, and read the resulting data."""
    worlds.small_parts()
    return prepared(data)


def features(folder: Path) -> Any:
    from timesformer_jax.features import read_features

    found = read_features(folder)
    arrays = {name: getattr(found, name) for name in ("values", "video", "clips", "crops", "seconds", "labels")}
    return {
        "arrays": digest_arrays(arrays),
        "names": found.names,
        "label names": found.label_names,
        "about": found.about,
        "unreadable": found.unreadable,
    }


def results(workdir: Path) -> Any:
    """Read the results as the report does."""
    from etils import epath

    from experiment import report

    return report._read_results(epath.Path(workdir))


def trained_with(workdir: Path) -> Any:
    from etils import epath

    from experiment import report

    return report._read_config(epath.Path(workdir))


def curves(workdir: Path) -> Any:
    from experiment.curves import read_curves

    return read_curves(str(workdir))


def stopped_test(folder: Path) -> list[str]:
    """Return a digest of each batch that an interrupted evaluation can reuse."""
    from timesformer_jax.evaluation import PartialEvaluation

    description = json.loads((folder.parent.parent / "stopped" / "description.json").read_text())
    partial = PartialEvaluation(str(folder), description, len(worlds.LABELS) * worlds.VAL * 2 // 4)
    rows = partial.rows
    return [json.dumps(digest_arrays(rows.part(i, i + 1)), sort_keys=True) for i in range(len(rows))]


def _is_prefix(found: Any, truth: Any) -> bool:
    return found == truth[: len(found)]


def attentive_probe(folder: Path) -> Any:
    from timesformer_jax.training import read_probe

    module, params, notes = read_probe(folder / "probe.npz")
    return {"probe": repr(module), "params": digest_arrays(params), "notes": notes}


def lock_taken(workdir: Path) -> str:
    """Take over the lock of a killed run."""
    from timesformer_jax.run_lock import locked

    with locked(workdir / ".eval.lock", f"evaluates in {workdir}"):
        return "taken"


def _is_beginning(found: Any, truth: Any) -> bool:
    """Return whether every curve is a prefix of the true one."""
    flat = {(panel, line): steps_and_values for panel, lines in found.items() for line, steps_and_values in lines.items()}
    return all(
        panel in truth and line in truth[panel] and all(map(_is_prefix, curve, truth[panel][line]))
        for (panel, line), curve in flat.items()
    )


CHECKPOINTS = "reference/checkpoints"
RESUME: dict[str, Any] = {"folder": CHECKPOINTS, "without": _without_newest}
EDITED: dict[str, Any] = {"folder": "exports/huggingface", "readers": (load_at(),), "optional": True, "editable": True}
STOPPED: dict[str, Any] = {
    "folder": "stopped",
    "readers": (stopped_test,),
    "partial": _is_prefix,
    "silently": tuple(ROWS),  # evaluated again
}
DATA: dict[str, Any] = {"folder": "data", "readers": (prepared,)}

KINDS: tuple[Kind, ...] = (
    Kind(
        "checkpoint: parameters",
        files=(f"{NEWEST}/params/**/d/*", f"{NEWEST}/ema/**/d/*"),
        readers=(resumed, evaluated("latest"), load_at(NEWEST)),
        **RESUME,
    ),
    Kind("checkpoint: optimizer state", files=(f"{NEWEST}/opt_state/**/d/*",), readers=(resumed,), **RESUME),
    Kind("checkpoint: counters", files=(f"{NEWEST}/counters/**/d/*",), readers=(resumed,), **RESUME),
    Kind(
        "checkpoint: manifests",
        files=(f"{NEWEST}/**/manifest.ocdbt",),
        readers=(resumed, evaluated("latest"), load_at(NEWEST)),
        **RESUME,
    ),
    Kind(
        "checkpoint: metadata of arrays",
        files=(f"{NEWEST}/**/_METADATA", f"{NEWEST}/**/_sharding", f"{NEWEST}/**/array_metadatas/*"),
        readers=(resumed, evaluated("latest"), load_at(NEWEST)),
        **RESUME,
    ),
    Kind(
        "checkpoint: metadata of the step",
        files=(f"{NEWEST}/_CHECKPOINT_METADATA",),
        readers=(resumed, evaluated("latest"), load_at(NEWEST)),
        **RESUME,
    ),
    Kind(
        "checkpoint: metric",
        files=(f"{NEWEST}/metrics/metrics",),
        readers=(resumed, evaluated("best")),
        **RESUME,
    ),
    Kind(
        "checkpoint: digests",
        files=(f"{NEWEST}/digests.json",),
        readers=(resumed, evaluated("latest"), load_at(NEWEST)),
        **RESUME,
    ),
    Kind(
        "checkpoint: an older step",
        files=(f"{OLDER}/**/*",),
        readers=(resumed, evaluated("latest")),
        **RESUME,
    ),
    Kind("tsf.save: arrays", "exports/own", ("**/d/*",), (load_at(),)),
    Kind(
        "tsf.save: other files", "exports/own", ("*", "params/*", "params/array_metadatas/*", "params/ocdbt*/*"), (load_at(),)
    ),
    Kind("safetensors", "exports/safetensors", ("*",), (load_at("model.safetensors"),)),
    Kind("Hugging Face: model.safetensors", "exports/huggingface", ("model.safetensors",), (load_at(),)),
    Kind("Hugging Face: config.json", files=("config.json",), **EDITED),
    Kind("Hugging Face: preprocessor_config.json", files=("preprocessor_config.json",), **EDITED),
    Kind("probe: linear", "reference/probe", ("**/*",), (load_at(),)),
    Kind("probe: attentive", "attentive", ("probe.npz",), (attentive_probe,)),
    Kind("features: shards", "reference/features/val", ("*.npz",), (features,)),
    Kind("features: features.json", "reference/features/val", ("features.json",), (features,)),
    Kind("prepared data: records", files=("**/*.tfrecord*",), **DATA),
    Kind("prepared data: index of records", files=("**/*.records.npy",), **DATA),
    Kind("prepared data: facts of records", files=("**/*.facts.npz",), **DATA),
    Kind("prepared data: left_out.json.gz", files=("**/left_out.json.gz",), **DATA),
    Kind("prepared data: dataset_info.json", files=("**/dataset_info.json",), **DATA),
    Kind("prepared data: features.json", files=("**/features.json",), **DATA),
    Kind("prepared data: labels", files=("**/*.labels.txt",), **DATA),
    Kind("prepared data: metadata.json", files=("**/metadata.json",), **DATA),
    Kind("prepared data: digests.json", files=("**/digests.json",), **DATA),
    Kind("prepared data: source.json", files=("**/source.json",), **DATA),
    Kind("prepared data: source_files.gz", "data", ("**/source_files.gz",), (modified_since,)),
    Kind("interrupted preparation: notes", "interrupted", ("**/.unfinished*/**/*.json",), (finished,)),
    Kind("interrupted preparation: records", "interrupted", ("**/.unfinished*/**/*.tfrecord",), (finished,)),
    Kind("interrupted evaluation: scores", files=("*.npz",), **STOPPED),
    Kind(
        "interrupted evaluation: description",
        "stopped",
        ("description.json",),
        (stopped_test,),
        partial=_is_prefix,
        silently=tuple(ROWS),
    ),
    Kind("lock of a killed run", "unfinished", (".*.lock",), (lock_taken,), optional=True),
    Kind("results.json", "reference", ("results.json",), (results,)),
    Kind("predictions.jsonl", "reference", ("predictions.jsonl",), (results,)),
    Kind("confusion.csv", "reference", ("confusion.csv",), (results,)),
    Kind("workdir: config.json", "reference", ("config.json",), (trained_with,), optional=True),
    Kind(
        "TensorBoard files",
        "reference",
        ("events.out.tfevents.*",),
        (curves,),
        partial=_is_beginning,
        silently=("cut",),  # like those of a killed run
        optional=True,
    ),
)
