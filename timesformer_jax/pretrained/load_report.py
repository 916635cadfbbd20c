"""What became of every tensor of a file and of every parameter of the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timesformer_jax.modeling import TimeSformer

DECISIONS = {
    "num_heads": "num_heads= decides, on the command line --num-heads, in a config model.num_heads",
    "activation": 'activation="gelu" or another decides, on the command line --activation, in a config model.activation, or '
    "the model's config next to it",
    "layer_norm_epsilon": "layer_norm_epsilon= decides, in a config model.layer_norm_epsilon, or the model's config.json next "
    "to it",
    "pixels": "preprocess= decides, in a config pixels.mean and pixels.std, or the model's config next to it",
}
"""What can be guessed -> how to decide it."""


@dataclasses.dataclass
class Report:
    """The account of one load; printing it gives a short table.

    Together `loaded`, `resized`, `copied` and `initialised` are all parameters of the model.
    """

    source: str
    format: str
    model: TimeSformer
    loaded: list[str] = dataclasses.field(default_factory=list)
    """Parameters taken over as they are."""
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    """Parameter -> from what shape to what."""
    copied: dict[str, str] = dataclasses.field(default_factory=dict)
    """Parameter of an extra attention step -> the spatial attention's that it is a copy of."""
    folded: dict[str, str] = dataclasses.field(default_factory=dict)
    """Parameter -> what of the file was folded into it, which changes no output."""
    initialised: dict[str, str] = dataclasses.field(default_factory=dict)
    """Parameter that the file didn't have -> why that is all right."""
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    """Tensor of the file that the model has no use for -> why that is all right."""
    entry: str | None = None
    """The entry of the file that was loaded, such as "model" or "model_ema"; None for a file without entries."""
    other_entries: tuple[str, ...] = ()
    """Entries next to it that hold tensors by name, such as a moving average."""
    not_finite: dict[str, int] = dataclasses.field(default_factory=dict)
    """Parameter -> how many of its values, as loaded, are NaN or infinite."""
    classifier: str | None = None
    """Rows of the classifier kept, fresh and dropped; None unless a number of classes was given."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What was concluded and may be wrong, such as the preprocessing; guesses are among them."""
    guesses: list[str] = dataclasses.field(default_factory=list)
    """Values that the weights don't state; the table begins with them."""
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    """What is guessed, a key of `DECISIONS` -> the end of "guessed ..."."""

    @property
    def kind(self) -> str:
        """The former name of `format`."""
        return self.format

    def guess(self, name: str, value: Any, why: str) -> None:
        """Record that nothing states a value; `name` is a key of `DECISIONS`, `why` the end of "guessed ..."."""
        self.reasons[name] = why
        self.guesses.append(f"{name} {value} (guessed {why}; {DECISIONS[name]})")
        self.notes.append(self.guesses[-1])

    def __str__(self) -> str:
        model = self.model
        lines = [
            f"{self.source}: {self.format}",
            f"  model        {model.attention_type}, {model.depth} blocks of {model.embed_dim}, {model.num_heads} heads, "
            f"{model.num_frames} frames, size {model.image_size}, {model.num_classes} classes",
        ]
        lines += [f"  guess        {guess}" for guess in self.guesses]
        if self.other_entries:
            others = ", ".join(self.other_entries[:6]) + (", ..." if len(self.other_entries) > 6 else "")
            lines.append(f"  entry        {self.entry or 'the file itself'}; entry= or --entry chooses another: {others}")
        lines += [f"  loaded       {len(self.loaded)} parameters"]
        lines += [f"  resized      {name} {old} -> {new}" for name, (old, new) in self.resized.items()]
        if self.copied:
            lines.append(f"  copied       {len(self.copied)} parameters of the extra attention from the spatial one")
        lines += _grouped("folded", self.folded)
        lines += _grouped("initialised", self.initialised) + _grouped("ignored", self.ignored)
        if self.classifier:
            lines.append(f"  classifier   {self.classifier}")
        if self.not_finite:
            lines.append(f"  not finite   {describe_not_finite(self.not_finite)}")
        return "\n".join(lines + [f"  note         {note}" for note in self.notes if note not in self.guesses])


def describe_not_finite(counts: Mapping[str, int]) -> str:
    """Parameter -> number of its values that are NaN or infinite, as part of a line."""
    shown = [f"{path} ({count:,})" for path, count in list(counts.items())[:5]]
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return f"{sum(counts.values()):,} value(s) are NaN or infinite, in {', '.join(shown)}{more}"


def _grouped(what: str, entries: dict[str, str]) -> list[str]:
    """One line for each reason, with the first names."""
    lines = []
    for reason in dict.fromkeys(entries.values()):
        names = [name for name, why in entries.items() if why == reason]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"  {what:<12} {shown} ({reason})")
    return lines
