"""Open a page in the browser that shows what a model sees in videos, or two models side by side.

timesformer app --checkpoint=timesformer-base-k400
timesformer app --checkpoint=runs/divided --checkpoint=runs/space_only
timesformer app                                   # the model of `make demo`

The page takes a video and shows the best labels, the frames that the model saw, and where it looked. Only this machine can open
it unless --host says otherwise. Videos are removed when their page is closed, and the page loads nothing from elsewhere.
"""

import argparse
from pathlib import Path

from timesformer_jax.app.checkpoint import Checkpoint, distinct_names
from timesformer_jax.app.server import serve
from timesformer_jax.devices import print_devices
from timesformer_jax.errors import InputError
from timesformer_jax.jobs.convert import add_load_arguments, load_options
from timesformer_jax.jobs.videos import CHECKPOINT, add_limit_arguments, check_at_least_1, check_classifier, limits_of
from timesformer_jax.pretrained import load
from timesformer_jax.video import Limits

DEMO = "runs/demo"
"""Workdir of `make demo`."""
PORT = 7860
LIMITS = Limits(max_pixels=4096 * 4096, max_seconds=3600.0, max_bytes=2 << 30)
"""Largest video to accept by default: other users of the page are waiting."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="PATH",
        help=f"{CHECKPOINT}; may be repeated to compare (default: {DEMO})",
    )
    job.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines open the page")
    job.add_argument("--port", type=int, default=PORT, help="port to listen on; 0 for any that is free")
    job.add_argument(
        "--max-side",
        type=int,
        help="maximum width and height in pixels of drawn videos (default: the video's own)",
    )
    add_limit_arguments(job, LIMITS)
    add_load_arguments(job)


def run(arguments: argparse.Namespace) -> int:
    """Load the checkpoints and serve the page until the process is interrupted."""
    limits = limits_of(arguments)
    check_at_least_1(arguments, "max_side")
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port must be from 0 to {(1 << 16) - 1}, got {arguments.port}.")
    sources = arguments.checkpoint or _demo()
    print_devices()
    checkpoints = []
    for source, name in zip(sources, distinct_names(sources), strict=True):
        pretrained = load(source, headless=True, **load_options(arguments))
        check_classifier(pretrained, source, "to predict with")
        checkpoints.append(Checkpoint(name, pretrained))
    serve(checkpoints, host=arguments.host, port=arguments.port, limits=limits, max_side=arguments.max_side)
    return 0


def _demo() -> list[str]:
    """Return the workdir of the demo; raises `InputError` if it wasn't trained."""
    if not Path(DEMO).is_dir():
        raise InputError(
            f"Give weights with --checkpoint (`timesformer zoo` lists names), or train the demo first with `make demo`: {DEMO} "
            "doesn't exist."
        )
    return [DEMO]
