"""Trains and tests a TimeSformer on a data set: `python main.py --config=configs/moving_digits.py --workdir=runs/demo`.

The job is `--mode=train` (goes on from the workdir's newest checkpoint if there is one, ends with a test), `--mode=eval`
(tests the newest checkpoint) or `--mode=show` (draws clips as the model gets them). Any field of the config can be given on
the command line: `--config.train.batch_size=64`.
"""

import functools
import gc
import logging
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import config_flags
from tqdm import tqdm

import timesformer_jax as tsf
from input_pipeline import (
    WINDOW_AXES,
    ClipOptions,
    MixingOptions,
    PixelOptions,
    VideoDataset,
    check_clips_per_video,
    check_test_views,
    draw_clips,
    mix_clips,
    open_dataset,
    prepare_test,
    prepare_training,
    test_batches,
    training_batches,
)
from timesformer_jax import evaluation, training
from timesformer_jax.modeling import describe_model
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration, such as configs/folder.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and results go; a folder or gs://...")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "show"], "Train and test, only test, or draw some clips.")

SPLITS = ("train", "val")
DTYPES = ("float32", "bfloat16", "float16")


class Job:
    """What both modes need: the data, the model for it, the mesh, the run's checkpoints."""

    def __init__(self, config: Any, workdir: str, *, read_only: bool):
        self.config = config
        self.workdir = workdir
        self.mesh: Mesh = training.make_mesh()
        # Everything is checked before the data are prepared, which can take long.
        _check(config)
        model = tsf.TimeSformer(num_classes=1, **config.model)
        pixels = PixelOptions(**config.pixels)
        self.mixing = MixingOptions(**config.mixing)
        self.clips = ClipOptions(num_frames=model.num_frames, crop_size=_square(model), **config.clips)
        check_test_views(config.eval.num_clips, config.eval.num_crops)
        if not read_only:
            batch_size = training.local_batch_size("train.batch_size", config.train.batch_size, self.mesh)
            check_clips_per_video(self.clips, batch_size)
        if config.data.get("short_side", self.clips.short_side[0]) < self.clips.short_side[0]:
            raise tsf.InputError(
                f"data.short_side={config.data.short_side} would keep smaller frames than clips.short_side="
                f"{self.clips.short_side} needs: use at least {self.clips.short_side[0]}."
            )
        self.data: VideoDataset = open_dataset(**config.data)
        _report_files(self.data)
        if self.data.several:
            raise tsf.InputError(
                f"The videos of {config.data.name} have any number of labels, and there is no loss for that here."
            )
        self.model = model.clone(num_classes=len(self.data.label_names))
        self.pixels = pixels.for_labels(self.data.label_names)
        self.prepare = functools.partial(prepare_test, mean=config.pixels.mean, std=config.pixels.std)
        self.score = evaluation.make_score_fn(
            model=self.model, prepare=self.prepare, average=config.eval.average, mesh=self.mesh
        )
        description = {
            "model": describe_model(self.model),
            "data": {"label_names": self.data.label_names},
            "optimizer": {"name": config.optimizer.name},
        }
        folder = str(epath.Path(workdir) / "checkpoints")
        # What `timesformer_jax.load` needs to prepare videos as the tests here do.
        preprocess = Preprocess(
            num_frames=self.clips.num_frames,
            crop_size=self.clips.crop_size,
            sampling=self.clips.sampling,
            sampling_rate=self.clips.sampling_rate,
            mean=config.pixels.mean,
            std=config.pixels.std,
            short_side=self.clips.test_short_side,
            placement=self.clips.placement,
        )
        notes = {"preprocess": preprocess.as_dict()}
        self.checkpoints = training.Checkpoints(folder, description, notes=notes, read_only=read_only)

    def predict(self, params: Any, split: str, *, num_clips: int, num_crops: int) -> evaluation.Predictions:
        local_devices = self.mesh.size // jax.process_count()
        per_host = -(-self.config.eval.batch_size // self.mesh.size) * local_devices
        batches = test_batches(self.data, split, self.clips, batch_size=per_host, num_clips=num_clips, num_crops=num_crops)
        return evaluation.predict_videos(
            self.score, params, batches, average=self.config.eval.average, num_crops=num_crops, mesh=self.mesh
        )


def train(job: Job) -> None:
    """Trains to the end, then tests."""
    config, data = job.config, job.data
    num_videos = data.num_videos("train")
    local_batch_size = training.local_batch_size("train.batch_size", config.train.batch_size, job.mesh)
    steps_per_epoch = num_videos * job.clips.clips_per_video / config.train.batch_size
    total_steps = max(round(config.train.num_epochs * steps_per_epoch), 1)
    optimizer, learning_rate = training.make_optimizer(**config.optimizer, total_steps=total_steps)
    state = training.init_state(job.model, optimizer, config.seed, job.mesh)
    state = job.checkpoints.restore(state)
    first_step = int(state.step)
    # A checkpoint says how many clips were used up to it, so the run goes on with the next one also with other batches.
    first_clip = job.checkpoints.pipeline.get("next_clip", first_step * config.train.batch_size)
    log.info("Labels: %s.", ", ".join(data.label_names[:20]) + (", ..." if len(data.label_names) > 20 else ""))
    log.info(
        "%d training and %d validation videos, %d labels; %s parameters; %d device(s), batches of %d; %d steps of %.4g epochs.",
        num_videos,
        data.num_videos("val"),
        len(data.label_names),
        f"{sum(x.size for x in jax.tree.leaves(state.params)):,}",
        job.mesh.size,
        config.train.batch_size,
        total_steps,
        config.train.num_epochs,
    )
    if first_step:
        rest = f"{total_steps - first_step} steps to go" if first_step < total_steps else "nothing left to train"
        log.info("Going on from the checkpoint of step %d in %s: %s.", first_step, job.workdir, rest)

    def every(epochs: float) -> int:
        return max(round(epochs * steps_per_epoch), 1)

    def validate(state: training.TrainState) -> dict[str, float]:
        predictions = job.predict(state.params, "val", num_clips=1, num_crops=1)
        return {f"val/{name}": value for name, value in evaluation.accuracies(predictions).items()}

    prepare = functools.partial(prepare_training, options=job.pixels, mesh=job.mesh)
    mix = functools.partial(mix_clips, options=job.mixing) if job.mixing.mixes else None
    if config.pixels.flip == "auto":
        log.info("Flips are %s: %s label speaks of left or right.", job.pixels.flip, "no" if job.pixels.flip == "on" else "a")
    writer = _metric_writer(job.workdir)
    state = training.train(
        state=state,
        train_step=training.make_train_step(
            model=job.model, optimizer=optimizer, prepare=prepare, mix=mix, seed=config.seed, mesh=job.mesh
        ),
        batches=training_batches(
            data,
            "train",
            job.clips,
            batch_size=local_batch_size,
            seed=config.seed,
            first_clip=first_clip,
        ),
        mesh=job.mesh,
        total_steps=total_steps,
        batch_size=config.train.batch_size,
        learning_rate=learning_rate,
        write_scalars=writer.write_scalars,
        log_every_steps=config.train.log_every_steps,
        checkpoints=job.checkpoints,
        checkpoint_every_steps=every(config.train.checkpoint_every_epochs),
        pipeline_state=lambda step: {"next_clip": first_clip + (step - first_step) * config.train.batch_size},
        evaluate=validate,
        evaluate_every_steps=every(config.train.evaluate_every_epochs),
    )
    writer.close()
    test(job, state.params, int(state.step))


def test(job: Job, params: Any, step: int) -> None:
    """Scores every video of `eval.split` with all its views; writes results.json and predictions.jsonl."""
    options = job.config.eval
    views = {"num_clips": options.num_clips, "num_crops": options.num_crops}
    predictions = job.predict(params, options.split, **views)
    unreadable = job.data.left_out.get(options.split, {})
    results = {
        "split": options.split,
        "num_videos": len(predictions.names),
        "unreadable": len(unreadable),
        **views,
        "placement": job.clips.placement,
        "average": options.average,
        **evaluation.accuracies(predictions),
        "step": step,
        "model": describe_model(job.model),
    }
    if jax.process_index() == 0:
        rows = evaluation.prediction_rows(predictions, job.data.label_names, unreadable)
        evaluation.write_results(job.workdir, results, rows)
    log.info(
        "Test on %d videos of '%s' (%d more can't be read), %d clip(s) x %d crop(s): top-1 %.2f %%, top-5 %.2f %%. "
        "See %s/results.json.",
        results["num_videos"],
        options.split,
        len(unreadable),
        options.num_clips,
        options.num_crops,
        100 * results["top1"],
        100 * results["top5"],
        job.workdir,
    )


def show(job: Job, num_clips: int = 8) -> None:
    """Draws the first clips that training and testing get, after all that happens to them: train.png, and one of the split."""
    key, mix_key = jax.random.split(jax.random.key(job.config.seed))
    batch = next(training_batches(job.data, "train", job.clips, batch_size=num_clips, seed=job.config.seed, first_clip=0))
    names = job.data.label_names
    titles = [names[label] for label in batch["label"]]
    video = prepare_training(key, jax.tree.map(jax.numpy.asarray, batch), options=job.pixels)
    if job.mixing.mixes:
        video, others, share = mix_clips(mix_key, video, jax.numpy.asarray(batch["label"]), options=job.mixing)
        titles = [
            f"{own}: {part:.0%}, {names[other]}: {1 - part:.0%}" for own, other, part in zip(titles, others, share, strict=True)
        ]
    draw_clips(str(Path(job.workdir) / "train.png"), _pictures(video, job.pixels), titles)
    views = {"num_clips": 1, "num_crops": 1}
    tested = next(test_batches(job.data, job.config.eval.split, job.clips, batch_size=num_clips, **views))
    real = tested["mask"]
    titles = [
        f"{names[label]}: {name.decode(errors='replace')}"
        for label, name in zip(tested["label"][real], tested["name"][real], strict=True)
    ]
    clips = job.prepare({name: jax.numpy.asarray(tested[name][real]) for name in WINDOW_AXES})
    draw_clips(str(Path(job.workdir) / f"{job.config.eval.split}.png"), _pictures(clips, job.pixels), titles)
    log.info("See %s/train.png and %s.png.", job.workdir, job.config.eval.split)


def _pictures(clips: jax.Array, pixels: PixelOptions) -> np.ndarray:
    """uint8 again, after all that happened to them."""
    values = np.asarray(clips, np.float32) * np.asarray(pixels.std) + np.asarray(pixels.mean)
    return (255 * values.clip(0, 1)).round().astype(np.uint8)


def _metric_writer(workdir: str) -> Any:
    """TensorBoard files and the log, from one process."""
    from clu import metric_writers  # loads TensorFlow: only after input_pipeline has made it quiet

    writers = [metric_writers.SummaryWriter(workdir), metric_writers.LoggingWriter()]
    return metric_writers.MultiWriter(writers if jax.process_index() == 0 else [])


def _check(config: Any) -> None:
    """What no other part checks: numbers that must be positive, a split that must be one, a dtype that must exist."""
    for section, fields in {
        "train": ("num_epochs", "log_every_steps", "evaluate_every_epochs", "checkpoint_every_epochs"),
        "eval": ("batch_size",),
    }.items():
        for field in fields:
            if config[section][field] <= 0:
                raise tsf.InputError(f"{section}.{field} must be above 0, got {config[section][field]}.")
    if config.seed < 0:
        raise tsf.InputError(f"seed must be at least 0, got {config.seed}.")
    if config.eval.split not in SPLITS:
        raise tsf.InputError(f"eval.split must be one of {', '.join(SPLITS)}, got {config.eval.split!r}.")
    if config.model.dtype not in DTYPES:
        raise tsf.InputError(f"model.dtype must be one of {', '.join(DTYPES)}, got {config.model.dtype!r}.")


def _square(model: tsf.TimeSformer) -> int:
    if not isinstance(model.image_size, int):
        raise tsf.InputError(f"model.image_size must be one number here, since crops are square; got {model.image_size}.")
    return model.image_size


def _report_files(data: VideoDataset) -> None:
    for split, videos in data.left_out.items():
        for name, reason in videos.items():
            log.warning("Left out %s of '%s': %s.", name, split, reason)
    for name, places in data.damaged.items():
        log.warning("Used, though damaged in %d place(s): %s.", places, name)


class _Lines(logging.Handler):
    """Log lines on stderr, above a progress bar if there is one: this project's, the metrics, and everyone's warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name == log.name or record.module == "logging_writer"
        if record.levelno >= logging.WARNING or (ours and jax.process_index() == 0):
            tqdm.write(self.format(record), file=sys.stderr)


def run(config: Any, workdir: str, mode: str) -> None:
    """One job from beginning to end; raises `InputError` for input that can't work."""
    read_only = mode == "eval"
    if "://" not in workdir:  # else it lies in a bucket, and the path is whole
        workdir = str(Path(workdir).expanduser().resolve())
    if not read_only:
        try:
            epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise tsf.InputError(f"--workdir={workdir} can't be used as a folder: {error.strerror}.") from error
    job = Job(config, workdir, read_only=read_only)
    try:
        if mode == "train":
            train(job)
        elif mode == "show":
            show(job)
        else:
            test(job, *job.checkpoints.restore_params(job.model, job.mesh))
    finally:
        job.checkpoints.close()
    if left_out := sum(map(len, job.data.left_out.values())):
        log.warning("%d video(s) could not be read and were left out.", left_out)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing, with one sentence for what a config file refuses or lacks, or a config file that isn't there."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        last_line = str(error).strip().splitlines()[-1].strip()  # of a traceback, where the config itself has failed
        sys.exit("Error: " + re.sub(r"^[\w.]+Error: ", "", last_line))
    except (AttributeError, KeyError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        reason = error.args[0]
        while isinstance(reason, Exception):  # ml_collections wraps its KeyError in an AttributeError
            reason = reason.args[0]
        unknown, _, nearest = reason.partition("\n")
        sys.exit(f"Error: the config has no field {unknown}. {nearest or 'See the config file for its fields.'}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument(s): {' '.join(argv[1:])}")
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(file).is_file():
        sys.exit(f"Error: there is no config file {file}. Those of this project are in configs/.")
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.INFO)
    message = None
    try:
        run(CONFIG.value, str(WORKDIR.value), str(MODE.value))
    except tsf.InputError as error:
        message = f"Error: {error}"
    except KeyboardInterrupt:
        message = "Interrupted. The same command goes on from the newest checkpoint."
    # Only now, and with the frames of the exception gone: a data pipeline that still lives when the interpreter shuts down
    # waits for the interpreter, and the process never ends.
    gc.collect()
    if message:
        sys.exit(message)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
