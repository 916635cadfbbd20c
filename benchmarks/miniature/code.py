"""Digests of the code that a result depends on, without its comments and docstrings."""

import ast
import functools
import hashlib
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = (
    "benchmarks/miniature/trainings.py",
    "benchmarks/miniature/videos.py",
    "input_pipeline/moving_digits.py",
    "timesformer_jax/datasets/digit_scenes.py",
    "timesformer_jax/datasets/drawn_digits.py",
    "timesformer_jax/augment/*.py",
    "timesformer_jax/evaluation/clip_scores.py",
    "timesformer_jax/evaluation/multi_view.py",
    "timesformer_jax/training/objective.py",
    "timesformer_jax/training/optimizer.py",
    "timesformer_jax/training/schedules.py",
    "timesformer_jax/training/step.py",
    "timesformer_jax/video/clip_seeds.py",
    "timesformer_jax/video/geometry.py",
    "timesformer_jax/video/preprocess.py",
    "timesformer_jax/video/sampling.py",
    "timesformer_jax/video/views.py",
)
FILES: dict[bool, tuple[str, ...]] = {
    False: (*SHARED, "timesformer_jax/modeling/*.py", "timesformer_jax/pretrained/fit_to_model.py"),
    True: (*SHARED, "benchmarks/miniature/convolutions.py", "timesformer_jax/cnn3d/*.py"),
}
"""Maps whether a network is convolutional to the patterns of the files that its results depend on."""


@functools.cache
def digest_of(convolutional: bool) -> str:
    """Digest of the code of `FILES`. Layout, comments and docstrings don't count."""
    paths = sorted(path for pattern in FILES[convolutional] for path in ROOT.glob(pattern))
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n{bare(path.read_text())}\n".encode())
    return digest.hexdigest()


def bare(source: str) -> str:
    """Return source code without comments, docstrings, blank lines and trailing spaces."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            for row in range(node.lineno - 1, node.end_lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
