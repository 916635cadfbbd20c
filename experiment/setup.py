"""What every job needs: the data, the model for it, the mesh, the run's checkpoints."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

import timesformer_jax as tsf
from experiment.checks import OBJECTIVES, check_checkpoint, check_labels, check_objective, check_workdir, make_workdir
from experiment.follow import make_model
from experiment.init_from import allowed_of_init_from, choice_of_init_from
from input_pipeline import (
    ClipOptions,
    MixingOptions,
    PixelOptions,
    SplitBatches,
    VideoDataset,
    check_clips_per_video,
    check_test_views,
    open_dataset,
    prepare_test,
    prepare_training,
    test_batches,
    training_batches,
)
from timesformer_jax import evaluation, training
from timesformer_jax.modeling import describe_model, flatten_params, parameter_shapes
from timesformer_jax.pretrained.load_report import describe_not_finite
from timesformer_jax.processes import from_first
from timesformer_jax.run_lock import take_lock
from timesformer_jax.video import Preprocess

log = logging.getLogger("timesformer_jax")

SPLITS = ("train", "val")
DTYPES = ("float32", "bfloat16", "float16")
CHECKPOINTS = ("latest", "best")
LOCKS = {"train": "trains", "eval": "evaluates", "features": "extracts features", "probe": "trains a probe"}
"""Set of files of a workdir -> what a process does that writes them, one at a time; each job has the set of its name."""


class Job:
    """A config come to life. Everything is checked before the data are prepared, which can take long.

    `config`: as `follow_weights` returns it, with every field set.

    `read_only`: nothing is written to the run's checkpoints, and there must be one. `draws`: it asks for training batches.
    `lock`: a key of `LOCKS`, the files that it writes.

    Raises `InputError` for whatever can't work.
    """

    def __init__(
        self, config: Any, workdir: str, *, read_only: bool, trains: bool = False, draws: bool = True, lock: str | None = None
    ):
        self.config = config
        self.workdir = workdir
        _check(config, trains)
        self.mesh: Mesh = training.make_mesh(**config.mesh)
        self.share = training.batch_share(self.mesh)
        model = make_model(config)
        training.check_mesh(model, self.mesh)
        pixels = PixelOptions(**config.pixels)
        self.mixing = MixingOptions(**config.mixing)
        self.clips = clip_options(config)
        check_test_views(config.eval.num_clips, config.eval.num_crops)
        if draws and not read_only:
            parts = config.train.accumulation
            local = training.local_batch_size("train.batch_size", config.train.batch_size, self.mesh, parts)
            if self.mixing.mixes and config.train.batch_size < 2 * parts:
                raise tsf.InputError(
                    f"mixing.mixup and mixing.cutmix mix the clips of a part of a batch, which has one clip alone "
                    f"(train.batch_size={config.train.batch_size}, train.accumulation={parts}): give it two, or set both to 0."
                )
            check_clips_per_video(self.clips, local)
        if config.data.get("short_side", self.clips.short_side[0]) < self.clips.short_side[0]:
            raise tsf.InputError(
                f"data.short_side={config.data.short_side} would keep smaller frames than clips.short_side="
                f"{self.clips.short_side} needs: use at least {self.clips.short_side[0]}."
            )
        self._check_what_is_there(model, read_only, trains)
        if not read_only:
            make_workdir(workdir)
        if lock:
            self.lock(lock)
        uses_checkpoint = read_only or lock is not None  # `--mode=show` alone shows any data
        check = functools.partial(check_labels, workdir) if uses_checkpoint else None
        self.data: VideoDataset = open_dataset(**config.data, check=check)
        _report_files(self.data)
        if config.debug:
            self.data = dataclasses.replace(self.data, most_videos=2 * max(config.train.batch_size, config.eval.batch_size))
        if config.train.data_share < 1:
            self.data = dataclasses.replace(self.data, chosen=("train", _share_of(self.data.num_videos("train"), config)))
        self.objective = OBJECTIVES[self.data.several]
        check_objective(workdir, self.objective)
        self.model = model.clone(num_classes=len(self.data.label_names))
        self.pixels = pixels.for_labels(self.data.label_names)
        self.score = evaluation.make_score_fn(
            model=self.model,
            prepare=functools.partial(prepare_test, options=self.pixels),
            mesh=self.mesh,
            objective=self.objective,
        )
        self.checkpoints = self._open_checkpoints(read_only, trains)

    def lock(self, name: str) -> None:
        """Take the workdir's lock `name`, a key of `LOCKS`; raises `InputError` in all processes if another job has it."""
        from_first(lambda: take_lock(*lock_of(self.workdir, name)), "the workdir to be locked")

    def _check_what_is_there(self, model: tsf.TimeSformer, read_only: bool, trains: bool) -> None:
        """The workdir and its checkpoint, as far as they don't depend on the data."""
        config = self.config
        check_workdir(self.workdir)
        if not trains:
            check_checkpoint(self.workdir, {"model": describe_model(model)}, needed=read_only)
        if trains:
            times = {"num_epochs": config.train.num_epochs, "steps_per_epoch": 1000.0}  # the true number needs the data
            training.make_optimizer(**config.optimizer, depth=model.depth, **times)
            check_checkpoint(self.workdir, self._describe(model), needed=False)

    def _describe(self, model: tsf.TimeSformer) -> dict[str, dict[str, Any]]:
        """What a checkpoint says of its run and that doesn't depend on the data."""
        config = self.config
        return {
            "model": describe_model(model),
            # What decides which arrays an optimizer's state has, and what the random keys are made of.
            "optimizer": {
                "name": config.optimizer.name,
                "frozen": training.frozen_paths(config.optimizer.rates, parameter_shapes(model)),
                "ema": config.train.ema_decay > 0,
            },
            # Steps and the schedule count batches.
            "run": {"seed": config.seed, "batch_size": config.train.batch_size},
        }

    def _open_checkpoints(self, read_only: bool, trains: bool) -> training.Checkpoints:
        description = {**self._describe(self.model), "data": {"label_names": self.data.label_names}}
        description["run"]["num_videos"] = self.data.num_videos("train")
        folder = str(epath.Path(self.workdir) / "checkpoints")
        return training.Checkpoints(folder, description, notes=self.notes, read_only=read_only, clears_up=trains)

    @property
    def notes(self) -> dict[str, Any]:
        """What `timesformer_jax.load` and `follow_weights` need besides the model and the label names, as JSON."""
        preprocess = {**self.preprocess.as_dict(), "short_sides": list(self.clips.short_side)}  # training draws from these
        return {"preprocess": preprocess, "objective": self.objective}

    @property
    def preprocess(self) -> Preprocess:
        """What `timesformer_jax.load` needs to prepare videos as the tests here do."""
        return describe_preprocess(self.config)

    @property
    def note(self) -> str | None:
        """The config's `note`, unless the run begins with weights of its own choice."""
        return None if self.config.init_from else self.config.note

    @property
    def local_batch_size(self) -> int:
        """Clips of a training batch that this process brings."""
        return self.config.train.batch_size // self.share.count

    def restore_params(self) -> tuple[Any, int]:
        """The parameters of the checkpoint that `eval.checkpoint` names, and its step."""
        best = self.config.eval.checkpoint == "best"
        params, step = self.checkpoints.restore_params(self.model, self.mesh, self.checkpoints.best_step if best else None)
        _report_not_finite(params, step)
        return params, step

    def load_init_from(self) -> tsf.Pretrained:
        """The weights that `init_from` names, in this model; classifier rows follow their labels.

        Embeddings that the config turns off are left aside, which the log says.
        """
        labels, key = self.data.label_names, jax.random.key(self.config.seed)
        return tsf.load(
            self.config.init_from,
            model=self.model,
            num_classes=len(labels),
            labels=labels,
            objective=self.objective,
            key=key,
            allow=allowed_of_init_from(self.config),
            **choice_of_init_from(self.config),
        )

    @property
    def prepare_training(self) -> Callable[..., jax.Array]:
        """What happens to a training batch on the devices."""
        split = training.split_batch(self.mesh) if self.mesh.size > 1 else None
        return functools.partial(prepare_training, options=self.pixels, split=split)

    def training_batches(self, batch_size: int, first_clip: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's part, so many clips, of every training batch from the clip `first_clip` of the run on."""
        return training_batches(
            self.data,
            "train",
            self.clips,
            batch_size=batch_size,
            seed=self.config.seed,
            first_clip=first_clip,
            part=(self.share.index, self.share.count),
        )

    @property
    def test_batch_size(self) -> int:
        """`eval.batch_size`, rounded up to the devices: of all processes together."""
        shards = training.batch_shards(self.mesh)
        return -(-self.config.eval.batch_size // shards) * shards

    def test_batches(self, split: str, *, num_clips: int, num_crops: int, part: tuple[int, int] | None = None) -> SplitBatches:
        """This process's batches of every video of a split, `test_batch_size` clips of all together.

        `part`: those of every so many-th video instead, and from which one on, (first, apart).
        """
        return test_batches(
            self.data,
            split,
            self.clips,
            batch_size=self.test_batch_size // self.share.count,
            num_clips=num_clips,
            num_crops=num_crops,
            part=part or (self.share.index, self.share.count),
        )

    def score_clips(
        self, params: Any, split: str, *, num_clips: int, num_crops: int, between: Callable[[], None] | None = None
    ) -> evaluation.ClipScores:
        """Scores of every clip of a split, on every process; `between` is called before every batch, and may raise."""

        def batches() -> Iterator[dict[str, np.ndarray]]:
            for batch in self.test_batches(split, num_clips=num_clips, num_crops=num_crops):
                if between is not None:
                    between()
                yield batch

        return evaluation.score_clips(
            self.score, params, batches(), num_crops=num_crops, mesh=self.mesh, objective=self.objective
        )


def lock_of(workdir: str, name: str) -> tuple[Any, str]:
    """Arguments of `take_lock` for a workdir's lock `name`, a key of `LOCKS`."""
    return epath.Path(workdir) / f".{name}.lock", f"{LOCKS[name]} in {workdir}"


def clip_options(config: Any) -> ClipOptions:
    """How the config cuts clips; raises `InputError` for what can't be."""
    return ClipOptions(num_frames=config.model.num_frames, crop_size=_square(config.model.image_size), **config.clips)


def describe_preprocess(config: Any) -> Preprocess:
    """How a test with this config prepares videos."""
    clips = clip_options(config)
    return Preprocess(
        num_frames=clips.num_frames,
        crop_size=clips.crop_size,
        sampling=clips.sampling,
        sampling_rate=clips.sampling_rate,
        mean=config.pixels.mean,
        std=config.pixels.std,
        channel_order=config.pixels.channel_order,
        short_side=clips.test_short_side,
        placement=clips.placement,
    )


def _check(config: Any, trains: bool) -> None:
    """What no other part checks: numbers that must be positive, a split that must be one, a dtype that must exist."""
    if trains and config.model.dtype == "float16":
        raise tsf.InputError(
            "model.dtype=float16 is for testing: in training small gradients would vanish in it, and the loss isn't scaled "
            "against that. Use bfloat16, which has float32's range."
        )
    for section, fields in {
        "train": (
            "accumulation",
            "num_epochs",
            "max_skipped_steps",
            "log_every_steps",
            "evaluate_every_epochs",
            "checkpoint_every_epochs",
        ),
        "eval": ("batch_size",),
    }.items():
        for field in fields:
            if not 0 < config[section][field] < math.inf:
                raise tsf.InputError(f"{section}.{field} must be above 0 and finite, got {config[section][field]}.")
    if not 0 < config.train.data_share <= 1:
        raise tsf.InputError(f"train.data_share must be above 0 and at most 1, got {config.train.data_share}.")
    for field in ("label_smoothing", "ema_decay"):
        if not 0 <= config.train[field] < 1:
            raise tsf.InputError(f"train.{field} must be at least 0 and below 1, got {config.train[field]}.")
    evaluation.check_average(config.eval.average)
    if config.seed < 0:
        raise tsf.InputError(f"seed must be at least 0, got {config.seed}.")
    for name, value, choices in (
        ("eval.split", config.eval.split, SPLITS),
        ("eval.checkpoint", config.eval.checkpoint, CHECKPOINTS),
        ("model.dtype", config.model.dtype, DTYPES),
    ):
        if value not in choices:
            raise tsf.InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _share_of(num_videos: int, config: Any) -> tuple[int, ...]:
    """The numbers of the training videos that count: those of a smaller share are among those of a larger one."""
    count = max(round(config.train.data_share * num_videos), 1)
    return tuple(sorted(np.random.default_rng([config.seed, num_videos]).permutation(num_videos)[:count].tolist()))


def _square(image_size: Any) -> int:
    if not isinstance(image_size, int):
        raise tsf.InputError(f"model.image_size must be one number here, since crops are square; got {image_size}.")
    return image_size


def _report_not_finite(params: Any, step: int) -> None:
    """A warning about parameters that are NaN or infinite."""
    counts = jax.jit(lambda tree: jax.tree.map(lambda array: jnp.sum(~jnp.isfinite(array)), tree))(params)
    not_finite = {path: int(count) for path, count in flatten_params(counts).items() if count}
    if not_finite and not jax.process_index():
        log.warning("Checkpoint of step %d: %s.", step, describe_not_finite(not_finite))


def _report_files(data: VideoDataset) -> None:
    if jax.process_index():
        return
    for line in data.describe_left_out():
        log.warning("%s", line)
