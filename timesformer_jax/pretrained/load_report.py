"""Report of a load: the fate of every tensor of the file and the origin of every parameter of the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timesformer_jax.cnn3d import ConvNet
from timesformer_jax.modeling import TimeSformer

DECISIONS = {
    "num_heads": "num_heads= decides, on the command line --num-heads, in a config model.num_heads",
    "activation": 'activation="gelu" or another decides, on the command line --activation, in a config model.activation, or '
    "the model's config next to it",
    "layer_norm_epsilon": "layer_norm_epsilon= decides, in a config model.layer_norm_epsilon, or the model's config.json next "
    "to it",
    "pixels": "preprocess= decides, in a config pixels.mean and pixels.std, or the model's config next to it",
}
"""Maps each value that may be guessed to the ways of setting it."""


@dataclasses.dataclass
class Report:
    """Report of one load; `print(report)` shows a short table.

    `loaded`, `resized`, `copied` and `initialised` together hold every parameter of the model.
    """

    source: str
    """The weights, as given to `load`."""
    format: str
    """Title of the format."""
    model: Any
    """The model that was filled."""
    loaded: list[str] = dataclasses.field(default_factory=list)
    """Parameters loaded unchanged."""
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    """Maps resized parameters to (shape in the file, shape in the model)."""
    copied: dict[str, str] = dataclasses.field(default_factory=dict)
    """Maps parameters of extra attention steps to the parameters of the spatial attention that they copy."""
    folded: dict[str, str] = dataclasses.field(default_factory=dict)
    """Maps parameters to the factor of the file that was folded into them, without changing any output."""
    initialised: dict[str, str] = dataclasses.field(default_factory=dict)
    """Maps parameters missing from the file to the reason why they may be missing."""
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    """Maps tensors of the file that the model doesn't use to the reason why they may be ignored."""
    entry: str | None = None
    """The entry of the file that was loaded, such as "model" or "model_ema"; None for a file without entries."""
    other_entries: tuple[str, ...] = ()
    """Other entries of the file that hold tensors by name, such as a moving average."""
    not_finite: dict[str, int] = dataclasses.field(default_factory=dict)
    """Maps parameters to the number of their loaded values that are NaN or infinite."""
    classifier: str | None = None
    """Counts of classifier rows kept, fresh and dropped; None unless a number of classes was given."""
    num_untrained: int = 0
    """Number of fresh rows in a classifier of which others are kept."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Conclusions that may be wrong, such as the preprocessing, including all guesses."""
    guesses: list[str] = dataclasses.field(default_factory=list)
    """Values that the weights don't state, shown at the top of the table."""
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    """Maps guessed values (keys of `DECISIONS`) to the basis of the guess, phrased to follow "guessed"."""

    @property
    def kind(self) -> str:
        """Former name of `format`."""
        return self.format

    def guess(self, name: str, value: Any, why: str) -> None:
        """Record a guessed value; `name` is a key of `DECISIONS`, and `why` is phrased to follow "guessed"."""
        self.reasons[name] = why
        self.guesses.append(f"{name} {value} (guessed {why}; {DECISIONS[name]})")
        self.notes.append(self.guesses[-1])

    def __str__(self) -> str:
        model = self.model
        lines = [
            f"{self.source}: {self.format}",
            f"  model        {_describe(model)}, {model.num_frames} frames, size {model.image_size}, "
            f"{model.num_classes} classes",
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


def _describe(model: TimeSformer | ConvNet) -> str:
    if isinstance(model, ConvNet):
        return f"{type(model).__name__}, stages of {', '.join(map(str, model.depths))} blocks, width {model.width}"
    return f"{model.attention_type}, {model.depth} blocks of {model.embed_dim}, {model.num_heads} heads"


def describe_not_finite(counts: Mapping[str, int]) -> str:
    """Format the numbers of NaN or infinite values per parameter as part of a line."""
    shown = [f"{path} ({count:,})" for path, count in list(counts.items())[:5]]
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return f"{sum(counts.values()):,} value(s) are NaN or infinite, in {', '.join(shown)}{more}"


def _grouped(what: str, entries: dict[str, str]) -> list[str]:
    """Format one line per reason, with the first names that have it."""
    lines = []
    for reason in dict.fromkeys(entries.values()):
        names = [name for name, why in entries.items() if why == reason]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"  {what:<12} {shown} ({reason})")
    return lines
