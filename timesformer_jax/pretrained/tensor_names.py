"""Tensor names: prefixes and wrapper components that training code adds, block numbers, and short listings."""

import re
from collections.abc import Iterable, Sequence

from timesformer_jax.pretrained.weight_formats import Format

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Components that PyTorch's wrappers (torch.compile, FSDP, activation checkpointing) add anywhere in a name."""
_WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:(?:{'|'.join(WRAPPERS)})\.)+")

BOOKKEEPING = r"(.*\.)?n_averaged"
"""Tensors that wrappers add to the model's (PyTorch's `AveragedModel`)."""

AVERAGE = re.compile(r"(?<![a-z])(?:ema|swa)(?![a-z])|averag|shadow", re.IGNORECASE)
"""Pattern in the names of moving averages of a model."""

_MOST = 8
"""Maximum number of prefixes to try per file."""


def without_wrappers(name: str) -> str:
    """Remove wrapper components from a tensor's name."""
    return _WRAPPED.sub("", name)


def _endings(format: Format, parameter: str = "cls_token") -> tuple[str, str]:
    """Return the format's name of one of our parameters, and the name's short form."""
    (token,) = (row.theirs for row in format.rows if row.ours == parameter)
    return token, token.removeprefix(format.prefix[1])


def possible_prefixes(names: Iterable[str], format: Format) -> list[str]:
    """Return candidate prefixes, shortest first: those in front of the format's CLS token, and the empty one.

    In models without a CLS, which are refused with an error that names the feature, the patch embedding's kernel is used.
    """
    names = set(names)
    for parameter in ("cls_token", "patch_embed/proj/kernel"):
        found = {""}
        ends = tuple(f"{separator}{end}" for end in _endings(format, parameter) for separator in "./")
        for name in names:
            found |= {name.removesuffix(end[1:]) for end in ends if name.endswith(end)}
        if len(found) > 1 or not names.isdisjoint(_endings(format, parameter)):
            break
    return sorted(found, key=lambda prefix: (len(prefix), prefix))[:_MOST]


def prefix_of(token: str, format: Format) -> str:
    """Return the prefix in the name of a CLS token: whatever precedes the format's name."""
    token = without_wrappers(token)
    return min((token.removesuffix(end) for end in _endings(format)), key=len)


def strip_prefix(name: str, prefix: str) -> str:
    """Remove a prefix, or as many of its leading components as the name shares.

    For example, the prefix "model.backbone." turns a classifier next to the backbone, "model.head.weight", into "head.weight".
    """
    for component in re.findall(r"[^./]*[./]", prefix):
        if not name.startswith(component):
            break
        name = name[len(component) :]
    return name


def choose_one(names: Iterable[str]) -> str | None:
    """Return the only name, or the only one that isn't a moving average's; None if several remain."""
    names = list(names)
    plain = [name for name in names if not AVERAGE.search(name)]
    return plain[0] if len(plain) == 1 else names[0] if len(names) == 1 else None


def template(name: str) -> tuple[str, str]:
    """Replace the block number in the name of a tensor or parameter with `{i}`; return the result and the number ("" if none).

    The first number of a layer or block is the one that counts: `layers.3.ffns.0.layers.1` belongs to block 3.
    """
    match = re.search(r"(?:blocks[._]|layers?\.|encoderblock_|encoder_layer_)(\d+)", name)
    return (name, "") if match is None else (name[: match.start(1)] + "{i}" + name[match.end(1) :], match[1])


def collapse_blocks(names: Iterable[str]) -> list[str]:
    """Merge names that differ only in their block number, which becomes a range such as `{0..11}`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        general, block = template(name)
        groups.setdefault(general, []).append(block)
    return [general.replace("{i}", _numbers(blocks), 1) if any(blocks) else general for general, blocks in groups.items()]


def _numbers(blocks: Sequence[str]) -> str:
    """Format block numbers in the style of brace expansion, `{0..3,7}`; a single number stays as it is."""
    found = sorted({int(block) for block in blocks if block})
    if len(found) < 2:
        return blocks[0]
    runs: list[list[int]] = []
    for number in found:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs) + "}"


def list_problems(problems: Iterable[str], limit: int = 20) -> str:
    """Join at most `limit` problems, listing those that recur in every block once."""
    distinct = collapse_blocks(problems)
    more = f"; and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return "; ".join(distinct[:limit]) + more
