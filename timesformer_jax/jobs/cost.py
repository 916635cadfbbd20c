"""Count the parameters and multiply-adds of every attention scheme, and of the paper's systems."""

import argparse
import csv
import sys
from pathlib import Path

from timesformer_jax.atomic_write import write_whole
from timesformer_jax.cost import Cost, cost_table, systems_table
from timesformer_jax.errors import InputError, first_line
from timesformer_jax.modeling import SCHEMES, TimeSformer
from timesformer_jax.plotting import encode_figure, new_figure
from timesformer_jax.variants import VARIANTS, create

TIMESFORMERS = [name for name, variant in VARIANTS.items() if variant.model is TimeSformer]
"""Variants with attention schemes to compare."""


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    job.add_argument("--variant", default="timesformer-base", metavar="NAME", help=f"model: one of {', '.join(TIMESFORMERS)}")
    job.add_argument("--num-classes", type=int, default=400, help="number of classes")
    job.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64, 96], help="numbers of frames per clip")
    job.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="sides of the square frames, in pixels")
    job.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    job.add_argument("--plot", metavar="FILE", help="also plot the costs to a .png, .svg or .pdf file")


def run(arguments: argparse.Namespace) -> int:
    """Print the cost of every scheme over frames and sizes, as a table or as CSV, and plot it if requested."""
    if arguments.variant in VARIANTS.keys() - set(TIMESFORMERS):
        raise InputError(
            f"{arguments.variant} has no attention schemes to compare: give --variant one of {', '.join(TIMESFORMERS)}; the "
            "last table has its cost."
        )
    model = create(arguments.variant, num_classes=arguments.num_classes)
    lines = cost_table(model, arguments.frames, arguments.sizes)
    if arguments.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(Cost._fields)
        writer.writerows(lines)
    else:
        print(f"{'attention_type':<20}{'frames':>7}{'size':>6}{'parameters':>14}{'10^9 multiply-adds':>20}")
        for line in lines:
            print(
                f"{line.attention_type:<20}{line.num_frames:>7}{line.image_size:>6}{line.parameters:>14,}"
                f"{line.multiply_adds / 1e9:>20,.2f}"
            )
        _print_systems(arguments.num_classes)
    if arguments.plot:
        _plot(lines, arguments.plot)
    return 0


def _print_systems(num_classes: int) -> None:
    """Print the cost of evaluating a video with each of the paper's systems."""
    print("\nEvaluation of a video (Table 2 of the paper):")
    print(f"{'model':<26}{'frames':>7}{'size':>6}{'views':>6}{'parameters':>14}{'10^9 per view':>15}{'10^12 per video':>17}")
    for line in systems_table(num_classes):
        print(
            f"{line.name:<26}{line.num_frames:>7}{line.image_size:>6}{line.num_views:>6}{line.parameters:>14,}"
            f"{line.multiply_adds / 1e9:>15,.2f}{line.video_multiply_adds / 1e12:>17,.3f}"
        )


def _plot(lines: list[Cost], path: str) -> None:
    sizes = sorted({line.image_size for line in lines})
    # The ticks of a logarithmic axis are formulas.
    with new_figure(4 * len(sizes), 3.6, **{"text.parse_math": True}) as figure:
        axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axis, size in zip(axes, sizes, strict=True):
            for attention_type in SCHEMES:
                part = [line for line in lines if (line.attention_type, line.image_size) == (attention_type, size)]
                axis.plot(
                    [line.num_frames for line in part], [line.multiply_adds / 1e12 for line in part], "o-", label=attention_type
                )
            axis.set(xlabel="frames", title=f"{size} x {size} pixels", xscale="log", yscale="log")
            axis.set_xticks([line.num_frames for line in part], [str(line.num_frames) for line in part])
            axis.minorticks_off()
        axes[0].set_ylabel("10^12 multiply-adds per clip")
        axes[0].legend(fontsize=7)
        try:
            drawn = encode_figure(figure, format=Path(path).suffix.removeprefix(".") or None, dpi=120)
            write_whole(Path(path), drawn)
        except InputError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a suffix that matplotlib doesn't support
            raise InputError(f"Can't write {path}: {first_line(error)}.") from error
