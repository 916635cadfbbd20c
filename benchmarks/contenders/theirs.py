"""Contenders of Hugging Face transformers in PyTorch."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    TimesformerConfig,
    TimesformerForVideoClassification,
)

from benchmarks.contenders.sizes import CLASSES, FRAMES, SIZE
from benchmarks.contenders.turns import Runs


def forward(batch_size: int, *, compiled: bool = False) -> Runs:
    """Return the forward pass, always under `torch.compile` on a GPU."""
    model, videos, device = _model(batch_size)
    if compiled or device == "cuda":
        model = torch.compile(model)

    def run() -> None:
        with torch.inference_mode():
            model(next(videos)).logits.sum().item()

    return {"": run}


def training_step(batch_size: int) -> Runs:
    """Return a training step with SGD and momentum, under `torch.compile` on a GPU."""
    model, videos, device = _model(batch_size)
    compiled = torch.compile(model.train()) if device == "cuda" else model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = compiled(next(videos)).logits.float().square().mean()
        loss.backward()
        optimizer.step()
        loss.item()

    return {"": run}


def export(path: Path, batch_size: int) -> None:
    """Write the model, with random weights and a fixed batch, as an ONNX file."""
    model, videos, _ = _model(batch_size)
    torch.onnx.export(model, (next(videos),), path, external_data=False)


def _model(batch_size: int) -> tuple[Any, Iterator[Any], str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = TimesformerForVideoClassification(TimesformerConfig(num_labels=CLASSES)).eval().to(device, dtype)
    videos = [torch.randn(batch_size, FRAMES, 3, SIZE, SIZE, device=device, dtype=dtype) for _ in range(3)]
    return model, itertools.cycle(videos), device
