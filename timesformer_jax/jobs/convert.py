"""Weights of any kind that can be read, written as a kind that others read.

timesformer convert TimeSformer_divST_8x32_224_K400.pyth FOLDER      a Hugging Face folder, to publish
timesformer convert runs/mine model.pyth                             a file for the official code
"""

import argparse

from timesformer_jax.modeling import SCORES
from timesformer_jax.pretrained import WRITERS, convert
from timesformer_jax.pretrained.kinds import KINDS


def add_arguments(job: argparse.ArgumentParser) -> None:
    """The job's arguments."""
    job.add_argument("source", help="a file, folder, run or name of the zoo")
    job.add_argument("target", help="where to write; its ending says what, unless --to does")
    job.add_argument(
        "--to", choices=list(WRITERS), help="default: .pyth, .safetensors official; .pth mmaction2; else huggingface"
    )
    job.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints what became of every tensor."""
    options = load_options(arguments)
    pretrained = convert(arguments.source, arguments.target, to=arguments.to, overwrite=arguments.overwrite, **options)
    print(pretrained.report)
    print(f"Written: {arguments.target}")
    return 0


def add_load_arguments(job: argparse.ArgumentParser, *, kind: str = "--kind") -> None:
    """Those of `load` that files may need; `kind`: what the one of that name is called, where the job has another."""
    job.add_argument("--labels", metavar="FILE", help="names of the classes: .json, .csv, or one a line")
    job.add_argument("--num-heads", type=int, help="attention heads, where neither the file nor the width tells them")
    job.add_argument(kind, choices=list(KINDS), dest="source_kind", help="what the source is, where its content leaves it open")
    job.add_argument("--objective", choices=list(SCORES), help="sigmoid: multi-label (default: as the file says, else softmax)")
    job.add_argument("--allow", action="append", default=[], metavar="PATTERN", help="names that may be missing or left over")


def load_options(arguments: argparse.Namespace) -> dict:
    """The arguments of `add_load_arguments` as `load` takes them."""
    options = {name: getattr(arguments, name) for name in ("labels", "num_heads", "objective", "allow")}
    options["kind"] = arguments.source_kind
    return {name: value for name, value in options.items() if value is not None}
