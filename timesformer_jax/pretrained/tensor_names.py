"""Names of tensors: prefixes and wrappers that training code adds, numbers of blocks, and lists of names in few words."""

import re
from collections.abc import Iterable, Sequence

from timesformer_jax.pretrained.weight_formats import Format

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Components that PyTorch's wrappers add anywhere in a name (torch.compile, FSDP, activation checkpointing)."""
_WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:(?:{'|'.join(WRAPPERS)})\.)+")

BOOKKEEPING = r"(.*\.)?n_averaged"
"""Tensors that wrappers add to those of the model (PyTorch's `AveragedModel`)."""

AVERAGE = re.compile(r"ema|averag|shadow|swa", re.IGNORECASE)
"""Names of a moving average of a model."""

_MOST = 8
"""Prefixes of one file that are tried."""


def without_wrappers(name: str) -> str:
    """A tensor's name as the wrapped model has it."""
    return _WRAPPED.sub("", name)


def _endings(format: Format, parameter: str = "cls_token") -> tuple[str, str]:
    """The format's name of that parameter of ours (the CLS token), and its short form."""
    (token,) = (row.theirs for row in format.rows if row.ours == parameter)
    return token, token.removeprefix(format.prefix[1])


def possible_prefixes(names: Iterable[str], format: Format) -> list[str]:
    """Prefixes under which names may be the format's, shortest first: whatever precedes its CLS token, and none at all.

    Models without a CLS, which are refused by name, have theirs before the first layer's kernel.
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
    """What precedes the format's name in this name of a CLS token."""
    token = without_wrappers(token)
    return min((token.removesuffix(end) for end in _endings(format)), key=len)


def strip_prefix(name: str, prefix: str) -> str:
    """The name without the prefix, or without those of its leading components that the name shares.

    With "model.backbone." a classifier next to the backbone, "model.head.weight", becomes "head.weight".
    """
    for component in re.findall(r"[^./]*[./]", prefix):
        if not name.startswith(component):
            break
        name = name[len(component) :]
    return name


def choose_one(names: Iterable[str]) -> str | None:
    """The only name, or the only one that is no moving average's; None if that leaves a choice."""
    names = list(names)
    plain = [name for name in names if not AVERAGE.search(name)]
    return plain[0] if len(plain) == 1 else names[0] if len(names) == 1 else None


def template(name: str) -> tuple[str, str]:
    """A tensor's or parameter's name with `{i}` for its block's number, and that number ("" where there is none).

    A name may have other numbers too: `layers.3.ffns.0.layers.1` is of block 3.
    """
    match = re.search(r"(?:blocks[._]|layers?\.|encoderblock_|encoder_layer_)(\d+)", name)
    return (name, "") if match is None else (name[: match.start(1)] + "{i}" + name[match.end(1) :], match[1])


def collapse_blocks(names: Iterable[str]) -> list[str]:
    """The names, with `{0..11}` for the numbers of blocks among those that differ in nothing else."""
    groups: dict[str, list[str]] = {}
    for name in names:
        general, block = template(name)
        groups.setdefault(general, []).append(block)
    return [general.replace("{i}", _numbers(blocks), 1) if any(blocks) else general for general, blocks in groups.items()]


def _numbers(blocks: Sequence[str]) -> str:
    """Numbers as the shell would expand them: `{0..3,7}`; one alone is itself."""
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
    """The problems in one sentence: those that recur in each block once, and at most `limit` of them."""
    distinct = collapse_blocks(problems)
    more = f"; and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return "; ".join(distinct[:limit]) + more
