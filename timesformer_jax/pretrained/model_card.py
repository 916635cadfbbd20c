"""Model card of a Hugging Face folder: its preprocessing, and the calls that give equal probabilities."""

from timesformer_jax.pretrained.pretrained import Pretrained
from timesformer_jax.video import Preprocess
from timesformer_jax.video.sampling import TARGET_FPS


def beyond_pipeline(preprocess: Preprocess) -> list[str]:
    """List the steps of a model's preprocessing that transformers' video classification pipeline doesn't support."""
    found = []
    if preprocess.channel_order != "rgb":
        found.append(f"channels in the order {preprocess.channel_order.upper()}")
    if preprocess.sampling != "uniform":
        found.append(f"frames from {preprocess.num_frames} equal segments of the whole video")
    return found


def frames_in_config(preprocess: Preprocess) -> dict[str, object]:
    """Return entries of `config.json` about frames, which transformers keeps but doesn't use."""
    rate = {"frame_sampling_rate": _number(preprocess.sampling_rate), "frame_rate": _number(TARGET_FPS)}
    return {"frame_sampling": preprocess.sampling, **(rate if preprocess.sampling == "uniform" else {})}


def model_card(pretrained: Pretrained) -> str:
    """Return the text of the folder's README.md."""
    model, preprocess = pretrained.model, pretrained.preprocess
    beyond = beyond_pipeline(preprocess)
    size, side = preprocess.crop_size, preprocess.short_side or preprocess.crop_size
    tag = "" if beyond else "pipeline_tag: video-classification\n"
    numbers = [", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std)]
    return f"""---
library_name: transformers
{tag}tags:
- timesformer
- video-classification
---

# TimeSformer

{model.attention_type}, {model.depth} blocks of {model.embed_dim}, {model.num_classes} classes, named in `config.json`.

| | |
|---|---|
| frames | {preprocess.num_frames} x {size} x {size} pixels |
| sampling | {_sampling(preprocess)} |
| one-crop view | short side scaled to {side} (bilinear, without antialiasing), centre crop of {size} |
| pixels | {preprocess.channel_order.upper()} / 255, mean {numbers[0]}, standard deviation {numbers[1]} |

## timesformer_jax

```
timesformer predict clip.mp4 --checkpoint=FOLDER --num-crops=1
```

prints probabilities of the one-crop view; without `--num-crops=1` they are averaged over three crops.

## transformers

{_pipeline(preprocess) if not beyond else _refusal(beyond)}
To compute the probabilities of the frames that `timesformer predict` takes from any video:

```python
import timesformer_jax as tsf
import torch
from transformers import AutoModelForVideoClassification

views = tsf.load("FOLDER").preprocess("clip.mp4", num_crops=1)  # [clips, frames, height, width, channels], normalised
model = AutoModelForVideoClassification.from_pretrained("FOLDER")
with torch.no_grad():
    logits = model(torch.from_numpy(views.transpose(0, 1, 4, 2, 3))).logits
probabilities = logits.{"sigmoid()" if pretrained.objective == "sigmoid" else "softmax(-1)"}.mean(0)
```
"""


def _sampling(preprocess: Preprocess) -> str:
    if preprocess.sampling != "uniform":
        return f"the middle of each of {preprocess.num_frames} equal segments of the video"
    rate, span = _number(preprocess.sampling_rate), _number(preprocess.sampling_rate * preprocess.num_frames)
    return f"`frame_sampling_rate` {rate} at {_number(TARGET_FPS)} fps: spread over {span} frames, both ends included"


def _refusal(beyond: list[str]) -> str:
    return f"""`transformers.pipeline` can't prepare videos for this model, which takes {" and ".join(beyond)}:
it would run, but with wrong probabilities. Pass prepared frames to the model.
"""


def _pipeline(preprocess: Preprocess) -> str:
    rate, fps = _number(preprocess.sampling_rate), _number(TARGET_FPS)
    span = _number(preprocess.sampling_rate * preprocess.num_frames)
    places = {
        "official": "the first frames of the video, as `timesformer predict` does",
        "tiled": "the first frames of the video only, where `timesformer predict` covers all of it",
    }
    place = places.get(preprocess.placement, "the first frames of the video, where `timesformer predict` takes the middle")
    return f"""```python
from transformers import pipeline

classify = pipeline("video-classification", model="FOLDER")
classify.video_processor = None  # decode with PyAV: transformers' video processors ignore frame_sampling_rate
predictions = classify("clip.mp4", frame_sampling_rate={rate})
```

The pipeline takes {place}. For videos with another frame rate than {fps} fps, pass `frame_sampling_rate={rate} * fps / {fps}`.
Probabilities agree with the one-crop view of the same frames, up to rounding of the pixels, if

- the video has at least {span} frames (at {fps} fps): from a shorter one the pipeline takes fewer frames, for which
  transformers computes wrong logits, while `timesformer predict` repeats the last frame;
- no frame is scaled down: transformers would antialias it, and `timesformer predict` doesn't;
- height and width of the scaled frame exceed the crop by even numbers of pixels: otherwise transformers' crop lies one pixel
  further up or left.
"""


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
