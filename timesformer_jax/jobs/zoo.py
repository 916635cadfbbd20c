"""List the published checkpoints and their accuracy."""

import argparse

from timesformer_jax.pretrained.zoo import DATASETS, ZOO


def add_arguments(job: argparse.ArgumentParser) -> None:
    """Add no arguments: the job takes none."""


def run(arguments: argparse.Namespace) -> int:
    """Print a table of the published checkpoints."""
    print(f"{'name':<30} {'data set':<24} {'classes':>7} {'frames':>6} {'pixels':>6} {'top-1':>6} {'top-5':>6}  where")
    for name, row in ZOO.items():
        dataset = DATASETS[row.dataset]
        top5 = "" if row.top5 is None else f"{row.top5:.1f}"
        print(
            f"{name:<30} {dataset.title:<24} {dataset.num_classes:>7} {row.num_frames:>6} {row.image_size:>6} {row.top1:>6.1f} "
            f"{top5:>6}  {'hf:' + row.repository if row.repository else row.url}"
        )
    print(
        "\nNames with hf: are downloaded automatically; for the others, download the file and give its path.\n"
        "License: CC BY-NC 4.0."
    )
    return 0
