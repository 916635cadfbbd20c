"""Convert weights between formats.

timesformer convert TimeSformer_divST_8x32_224_K400.pyth FOLDER      a Hugging Face folder, to publish
timesformer convert runs/mine model.pyth                             a file for the official code
"""

import argparse

from timesformer_jax.modeling import SCORES
from timesformer_jax.modeling.layers import ACTIVATIONS
from timesformer_jax.pretrained import WRITERS, convert
from timesformer_jax.pretrained.weight_formats import FORMATS
from timesformer_jax.printable import printable


def add_arguments(job: argparse.ArgumentParser) -> None:
    """The job's arguments."""
    job.add_argument(
        "source", metavar="SOURCE", help="weights: a file, folder, workdir of a run, or name listed by `timesformer zoo`"
    )
    job.add_argument(
        "target", metavar="TARGET", help="file or folder to write; its suffix chooses the format, unless --to does"
    )
    job.add_argument(
        "--to",
        choices=list(WRITERS),
        help="format to write (default: official for .pyth and .safetensors, mmaction2 for .pth, else huggingface)",
    )
    job.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints what became of every tensor."""
    options = load_options(arguments)
    pretrained = convert(arguments.source, arguments.target, to=arguments.to, overwrite=arguments.overwrite, **options)
    print(printable(pretrained.report, newlines=True))
    print(f"Written: {printable(arguments.target)}")
    return 0


def add_load_arguments(job: argparse.ArgumentParser, *, former: str = "--kind") -> None:
    """Those of `load` that files may need; `former`: the earlier name of `--checkpoint-format`, which still works."""
    job.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes: .json, .csv, or text with one per line (default: the checkpoint's)",
    )
    for name, text in SIZES.items():
        job.add_argument(name, type=int, help=text)
    job.add_argument(
        "--image-size", type=int, nargs="+", metavar="N", help="pixels, one number or height and width (default: the weights')"
    )
    job.add_argument("--num-heads", type=int, help="attention heads (default: as the file says, else as usual for its width)")
    formats = {"choices": list(FORMATS), "dest": "checkpoint_format"}
    text = f"format of the weights: {', '.join(FORMATS)} (default: detected from their content)"
    job.add_argument("--checkpoint-format", **formats, metavar="FORMAT", help=text)
    job.add_argument(former, **formats, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    text = "how scores become probabilities; sigmoid is for multi-label models (default: as the file says, else softmax)"
    job.add_argument("--objective", choices=list(SCORES), help=text)
    job.add_argument("--entry", help="entry of the file to load, such as model_ema (default: the model's)")
    job.add_argument("--prefix", help="load the tensors whose names begin with this (default: detected from their names)")
    job.add_argument(
        "--activation", choices=list(ACTIVATIONS), help="activation of the MLPs (default: as usual for the format)"
    )
    job.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of parameters that may be missing or superfluous; may be repeated (default: none)",
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

SIZES = {
    "--num-classes": "classes (default: the weights'); rows of the classifier whose labels the weights name are kept, others "
    "are fresh and untrained",
    "--num-frames": "frames of a clip; the time embedding is resized (default: the weights')",
}


def load_options(arguments: argparse.Namespace) -> dict:
    """The arguments of `add_load_arguments` as `load` takes them."""
    options = {name: getattr(arguments, name) for name in LOAD_OPTIONS}
    options["format"] = arguments.checkpoint_format
    if arguments.image_size is not None:
        options["image_size"] = arguments.image_size[0] if len(arguments.image_size) == 1 else tuple(arguments.image_size)
    return {name: value for name, value in options.items() if value is not None}
