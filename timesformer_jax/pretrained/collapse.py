"""Lists of names in few words: those that recur in each block as one."""

from collections.abc import Iterable, Sequence

from timesformer_jax.pretrained.weight_formats import template


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
