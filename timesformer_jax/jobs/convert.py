"""Convert weights between formats.

timesformer convert TimeSformer_divST_8x32_224_K400.pyth FOLDER      # to a Hugging Face folder
timesformer convert runs/mine model.pyth                             # to a file for the official code
timesformer convert runs/mine model.onnx                             # to a file for ONNX Runtime and OpenVINO
"""

import argparse

from timesformer_jax.modeling import SCORES
from timesformer_jax.modeling.layers import ACTIVATIONS
from timesformer_jax.pretrained import WRITERS, convert
from timesformer_jax.pretrained.convnet_formats import CONVNET_FORMATS
from timesformer_jax.pretrained.weight_formats import FORMATS
from timesformer_jax.printable import printable


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument(
        "source",
        metavar="SOURCE",
        help="weights: a file, folder, workdir of a run, name listed by `timesformer zoo`, or hf:ORGANISATION/MODEL",
    )
    job.add_argument("target", metavar="TARGET", help="file or folder to write; without --to, its suffix selects the format")
    job.add_argument(
        "--to",
        choices=list(WRITERS),
        help="format to write (default: official for .pyth and .safetensors, mmaction2 for .pth, onnx for .onnx, else "
        "huggingface)",
    )
    job.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Convert the weights, and print the report of every tensor."""
    options = load_options(arguments)
    pretrained = convert(arguments.source, arguments.target, to=arguments.to, overwrite=arguments.overwrite, **options)
    print(printable(pretrained.report, newlines=True))
    print(f"Written: {printable(arguments.target)}")
    return 0


def add_load_arguments(job: argparse.ArgumentParser, *, former: str = "--kind") -> None:
    """Add the arguments of `load` that files may need; `former` is a former name of `--checkpoint-format` that still works."""
    job.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes: .json, .csv, or text with one name per line (default: from the weights)",
    )
    for name, text in SIZES.items():
        job.add_argument(name, type=int, help=text)
    job.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="size in pixels, one number or height and width; the position embedding is resized (default: from the weights)",
    )
    job.add_argument(
        "--num-heads",
        type=int,
        help="number of attention heads (default: from the weights, else the usual number for their width)",
    )
    known = [*FORMATS, *CONVNET_FORMATS]
    formats = {"choices": known, "dest": "checkpoint_format"}
    text = f"format of the weights: {', '.join(known)} (default: detected from their content)"
    job.add_argument("--checkpoint-format", **formats, metavar="FORMAT", help=text)
    job.add_argument(former, **formats, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    text = "conversion of logits to probabilities; sigmoid for multi-label models (default: from the weights, else softmax)"
    job.add_argument("--objective", choices=list(SCORES), help=text)
    job.add_argument("--entry", help="entry of the file to load, such as model_ema (default: the model)")
    job.add_argument("--prefix", help="load only tensors whose names have this prefix (default: detected from the names)")
    job.add_argument(
        "--activation",
        choices=list(ACTIVATIONS),
        help="activation of the MLPs (default: from the weights, else as usual for their format)",
    )
    job.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of parameters that may be missing, or of tensors to ignore; may be repeated (default: none)",
    )


LOAD_OPTIONS = (
    "labels",
    "num_classes",
    "num_frames",
    "num_heads",
    "activation",
    "entry",
    "prefix",
    "objective",
    "allow",
)
"""Arguments that have the same name and type in `load`."""

SIZES = {
    "--num-classes": "number of classes (default: from the weights); with --labels, classifier rows are matched by name and "
    "new labels get untrained rows",
    "--num-frames": "number of frames per clip; the time embedding is resized (default: from the weights)",
}
"""Maps flags of sizes to their help."""


def load_options(arguments: argparse.Namespace) -> dict:
    """Return the arguments of `add_load_arguments` as keyword arguments of `load`."""
    options = {name: getattr(arguments, name) for name in LOAD_OPTIONS}
    options["format"] = arguments.checkpoint_format
    if arguments.image_size is not None:
        options["image_size"] = arguments.image_size[0] if len(arguments.image_size) == 1 else tuple(arguments.image_size)
    return {name: value for name, value in options.items() if value is not None}
