"""Forward passes and training steps of the whole model."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import timesformer_jax as tsf
from benchmarks.accelerator.record import find
from benchmarks.accelerator.sizes import LongClip, Size
from benchmarks.accelerator.timing import Measurement, Skipped, compile_timed, peak_gib, time_calls
from timesformer_jax import training
from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.cost import count_multiply_adds
from timesformer_jax.modeling import init_weights, input_shape, variables_of
from timesformer_jax.video import normalize

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
FITS = 1.1
"""A batch is skipped if, judging by a smaller one, it would need more than this share of the memory."""


def forward_measurements(size: Size) -> list[Measurement]:
    """Return measurements of logits for several batch sizes, with unrolled and scanned blocks."""
    return [
        Measurement(_name(batch, fields), partial(forward, size, batch, fields), later=later)
        for batch, fields, later in _plans(size.forward_batches)
    ]


def train_measurements(size: Size) -> list[Measurement]:
    """Return measurements of the library's training step for several batch sizes, with unrolled and scanned blocks."""
    return [
        Measurement(_name(batch, fields), partial(train, size, batch, fields), limit=110, later=later)
        for batch, fields, later in _plans(size.train_batches)
    ]


def _plans(batches: tuple[int, ...]) -> list[tuple[int, dict[str, Any], bool]]:
    """Return (clips per batch, fields of the model, whether to run in the second round)."""
    first, *others = batches
    return [
        (first, {}, False),
        (first, {"scan_layers": True}, True),
        *((first, {"attention_implementation": name}, True) for name in ("xla", "cudnn")),
        *((batch, {}, True) for batch in others),
    ]


def remat_measurements(size: Size) -> list[Measurement]:
    """Return measurements of rematerialization, with scanned blocks."""
    return [
        Measurement(_name(size.batch_size, fields), partial(train, size, size.batch_size, fields), limit=90, later=later)
        for remat, later in (("full", False), ("dots", True))
        for fields in [{"scan_layers": True, "remat": remat}]
    ]


def long_clip_measurements(size: Size) -> list[Measurement]:
    """Return measurements of long clips: training with several attention implementations, and joint attention forward."""
    found = []
    for attention, later in (("auto", False), ("xla", True), ("chunked", True)):
        for clip in size.long_clips:
            fields = {"scan_layers": True, "remat": "full", "attention_implementation": attention}
            name = f"train {_clip_name(clip)}, attention {attention}"
            found.append(Measurement(name, partial(train, size, clip.batch_size, fields, clip=clip), limit=90, later=later))
    for attention in ("auto", "chunked"):
        fields = {"scan_layers": True, "attention_type": "joint_space_time", "attention_implementation": attention}
        name = f"forward {_clip_name(size.joint_clip)}, joint attention {attention}"
        run = partial(forward, size, size.joint_clip.batch_size, fields, clip=size.joint_clip)
        found.append(Measurement(name, run, later=True))
    return found


def forward(
    size: Size, batch_size: int, fields: dict[str, Any], results: dict[str, Any], *, clip: LongClip | None = None
) -> dict[str, Any]:
    """Time the logits of a batch that is already on the device."""
    return time_forward(make_model(size, clip, fields), batch_size, size.timing_seconds, results)


def time_forward(
    model: tsf.TimeSformer | ConvNet, batch_size: int, timing_seconds: float, results: dict[str, Any], side: int | None = None
) -> dict[str, Any]:
    """Time the logits of a batch on the device, of clips of the model's size or of `side` pixels."""
    variables = variables_of(jax.jit(partial(init_weights, model))(jax.random.key(0)))

    def logits(variables: Any, video: jax.Array) -> Any:
        return model.apply(variables, normalize(video, mean=MEAN, std=STD))

    video = jax.device_put(random_batch(model, batch_size, seed=0, side=side)["video"])
    compiled, figures = compile_timed(jax.jit(logits), variables, video)
    timed = time_calls(lambda: compiled(variables, video), timing_seconds)
    return {**figures, **timed, **rates(model, batch_size, 2, timed["seconds"], results, side)}


def train(
    size: Size, batch_size: int, fields: dict[str, Any], results: dict[str, Any], *, clip: LongClip | None = None
) -> dict[str, Any]:
    """Time the library's training step, with batches on the device and with batches from host memory."""
    if clip is None:
        check_fits(size, batch_size, fields, results)
    return time_training(make_model(size, clip, fields), batch_size, size.timing_seconds, results)


def time_training(
    model: tsf.TimeSformer | ConvNet, batch_size: int, timing_seconds: float, results: dict[str, Any]
) -> dict[str, Any]:
    """Time the library's training step, with batches on the device and with batches from host memory."""
    bench = TrainingBench(model, batch_size, lambda key, batch: normalize(batch["video"], mean=MEAN, std=STD))
    timed = time_calls(bench.step, timing_seconds)
    streamed = time_calls(bench.step_from_host, timing_seconds)
    loss = float(bench.metrics["loss"])
    return {
        **bench.figures,
        **timed,
        "from_host_seconds": streamed["seconds"],
        "from_host_clips_per_second": batch_size / streamed["seconds"],
        "process_peak_gib": peak_gib(),
        "loss_is_finite": bool(np.isfinite(loss)),
        **rates(model, batch_size, 6, timed["seconds"], results),
    }


class TrainingBench:
    """The library's compiled training step with its state, and batches on the device and on the host."""

    def __init__(self, model: tsf.TimeSformer | ConvNet, batch_size: int, prepare: Callable[..., Any], **more: Any):
        self._mesh = training.make_mesh(jax.devices()[:1])
        optimizer = optax.sgd(5e-3, momentum=0.9)
        self.state = training.init_state(model, optimizer, 0, self._mesh)
        step = training.make_train_step(model=model, optimizer=optimizer, prepare=prepare, seed=0, mesh=self._mesh, **more)
        hosts = [{**random_batch(model, batch_size, seed=seed), **_window_positions(model, batch_size)} for seed in range(3)]
        self._host_batches = itertools.cycle(hosts)
        self._batches = itertools.cycle([training.to_devices(batch, self._mesh) for batch in hosts])
        self.compiled, self.figures = compile_timed(step, self.state, next(self._batches))
        self.metrics: dict[str, jax.Array] = {}

    def step(self) -> Any:
        """Run a step on the next of three batches on the device."""
        self.state, self.metrics = self.compiled(self.state, next(self._batches))
        return self.metrics

    def copy(self) -> Any:
        """Copy a batch from host memory to the device."""
        return training.to_devices(next(self._host_batches), self._mesh)

    def step_from_host(self) -> Any:
        """Copy a batch from host memory to the device and run a step on it."""
        self.state, self.metrics = self.compiled(self.state, self.copy())
        return self.metrics


def make_model(size: Size, clip: LongClip | None, fields: dict[str, Any]) -> tsf.TimeSformer:
    """Build the size's model in bfloat16, for a long clip if one is given."""
    shape = {} if clip is None else {"num_frames": clip.num_frames, "image_size": clip.image_size}
    return tsf.TimeSformer(**{**size.model, **shape, "dtype": jnp.bfloat16, **fields})


def random_batch(
    model: tsf.TimeSformer | ConvNet, batch_size: int, *, seed: int, side: int | None = None
) -> dict[str, np.ndarray]:
    """Return random uint8 windows of the model's input size, or of `side` pixels, and labels."""
    random = np.random.default_rng(seed)
    _, frames, height, width, channels = input_shape(model)
    video = random.integers(0, 256, (batch_size, frames, side or height, side or width, channels), np.uint8)
    return {"video": video, "label": random.integers(0, model.num_classes, batch_size, np.int32)}


def _window_positions(model: tsf.TimeSformer | ConvNet, batch_size: int) -> dict[str, np.ndarray]:
    """Return row and column positions with which `timesformer_jax.augment` crops the whole window."""
    _, _, height, width, _ = input_shape(model)
    lengths = {"rows": height, "columns": width}
    return {name: np.tile(np.arange(length, dtype=np.float32), (batch_size, 1)) for name, length in lengths.items()}


def rates(
    model: tsf.TimeSformer | ConvNet,
    batch_size: int,
    operations: int,
    seconds: float,
    results: dict[str, Any],
    side: int | None = None,
) -> dict[str, Any]:
    """Return clips and model FLOPs per second, and the MFU if references were measured.

    Args:
        model: The measured model.
        batch_size: Clips per batch.
        operations: FLOPs per multiply-add of the logits: 2 forward, 6 in training.
        seconds: Seconds per batch.
        results: Results so far.
        side: Height and width of the clips in pixels; the model's own by default.

    Returns:
        Figures by name.
    """
    flops = operations * count_multiply_adds(model, image_size=side, for_logits=True)
    teraflops = flops * batch_size / seconds / 1e12
    figures: dict[str, Any] = {"batch_size": batch_size, "clips_per_second": batch_size / seconds, "teraflops": teraflops}
    if product := find(results, "card", "matrix product, bfloat16"):
        figures["mfu_of_matrix_product"] = teraflops / product["teraflops"]
    if (device := find(results, "card", "device")) and device["data_sheet_teraflops"]:
        figures["mfu_of_data_sheet"] = teraflops / device["data_sheet_teraflops"]
    return figures


def check_fits(size: Size, batch_size: int, fields: dict[str, Any], results: dict[str, Any]) -> None:
    """Raise `Skipped` if a smaller batch shows that this one can't fit, since trying costs a minute of compilation."""
    device = find(results, "card", "device")
    for smaller in size.train_batches:
        before = find(results, "train", _name(smaller, fields))
        if smaller >= batch_size or before is None or not device or not device["usable_gib"] or "needs_gib" not in before:
            continue
        needed = before["needs_gib"] * batch_size / smaller
        if needed > FITS * device["usable_gib"]:
            raise Skipped(f"would need about {needed:.0f} GiB, judging by a batch of {smaller}")


def _name(batch_size: int, fields: dict[str, Any]) -> str:
    words = []
    for name, value in fields.items():
        if name == "attention_implementation":
            words.append(f"attention {value}")
        else:
            words.append(name if value is True else f"{name} {value}")
    return ", ".join([f"batch {batch_size}", *words])


def _clip_name(clip: LongClip) -> str:
    return f"{clip.num_frames} x {clip.image_size}, batch {clip.batch_size}"
