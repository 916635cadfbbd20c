"""Golden files and generated videos for fixtures and tests."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import timesformer_jax as tsf
from timesformer_jax.modeling import parameter_shapes
from timesformer_jax.pretrained import params_from_official

GOLDEN = Path(__file__).parent / "golden"


class Golden(NamedTuple):
    """Outputs of the official PyTorch implementation, and the same model in this project."""

    model: tsf.TimeSformer
    arrays: dict[str, np.ndarray]

    def params(self, prefix: str = "param/", *, scan_layers: bool = False) -> Any:
        """Parameters in this project's tree, or gradients with `prefix="grad/"`."""
        tensors = {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}
        return params_from_official(tensors, self.model.clone(scan_layers=scan_layers))

    def video(self, prefix: str = "") -> jax.Array:
        return jax.numpy.asarray(self.arrays[f"{prefix}input_bcthw"].transpose(0, 2, 3, 4, 1))  # -> [B, T, H, W, C]

    @property
    def labels(self) -> jax.Array:
        return jax.numpy.asarray(self.arrays["labels"], jax.numpy.int32)


def load_golden(attention_type: str) -> Golden:
    with np.load(GOLDEN / f"official_{attention_type}.npz") as file:
        arrays = dict(file)
    return Golden(tsf.TimeSformer(**json.loads(str(arrays["config"]))), arrays)


def random_variables(model: tsf.TimeSformer, seed: int = 0) -> dict[str, Any]:
    """Parameters without zeros, biases included, made without compiling anything."""
    draw = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        fan_in = leaf.shape[0] if path[-1].key == "kernel" else 25
        noise = draw.normal(size=leaf.shape) / fan_in**0.5
        return jax.numpy.asarray(noise + (path[-1].key == "scale"), leaf.dtype)

    one_by_one = parameter_shapes(model.clone(scan_layers=False))
    params = jax.tree_util.tree_map_with_path(fill, one_by_one)
    return {"params": tsf.stack_blocks(params) if model.scan_layers else params}


def write_video(
    path: Path, frames: np.ndarray, *, fps: int = 30, codec: str = "libx264", times: Sequence[float] | None = None
) -> Path:
    """Encode uint8 frames `[T, H, W, 3]`, at a rate or at times in seconds, which are rounded to milliseconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def moving_square(label: int, seed: int, num_frames: int = 40, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square on a soft background, with colour and direction given by the label."""
    shades = np.random.default_rng([label, seed]).uniform(20, 80, (2, 3))
    background = shades[0] + (shades[1] - shades[0]) * np.linspace(0, 1, width)[None, :, None] * np.ones((height, 1, 1))
    frames = np.repeat(background[None].astype(np.uint8), num_frames, axis=0)
    for time, frame in enumerate(frames):
        row, column = [(12, time), (time // 2, 12), (12, 45 - time)][label]
        frame[row : row + 16, column : column + 16] = [(250, 60, 60), (60, 250, 60), (60, 60, 250)][label]
    return frames
