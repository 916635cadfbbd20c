"""Rows of the tables of weights: one tensor of theirs, one parameter of ours, and the groups that recur."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from timesformer_jax.pretrained.layouts import LINEAR, PART_BIAS, PART_KERNEL, PROJ_KERNEL, SAME, Layout


class Row(NamedTuple):
    """One tensor: `theirs` and `ours` are names in which `{i}` stands for a block's number."""

    theirs: str
    ours: str
    layout: Layout = SAME
    part: int | None = None
    """0, 1, 2 where theirs is the query, key or value alone, of our packed three."""


def affine(theirs: str, ours: str, kernel: Layout = LINEAR, bias: Layout = SAME, part: int | None = None) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/kernel", kernel, part)
    yield Row(f"{theirs}.bias", f"{ours}/bias", bias, part)


def norm(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/scale")
    yield Row(f"{theirs}.bias", f"{ours}/bias")


def rows(*groups: Row | Iterable[Row]) -> tuple[Row, ...]:
    return tuple(row for group in groups for row in ([group] if isinstance(group, Row) else group))


def mlp(block: str, first: str, second: str) -> Iterator[Row]:
    yield from affine(f"{block}.{first}", "blocks_{i}/mlp/fc1")
    yield from affine(f"{block}.{second}", "blocks_{i}/mlp/fc2")


def separate(attention: str, names: tuple[str, str, str], projection: str) -> Iterator[Row]:
    """The image transformer's attention with three layers instead of the packed one."""
    for part, name in enumerate(names):
        yield from affine(f"{attention}.{name}", "blocks_{i}/attn/qkv", PART_KERNEL, PART_BIAS, part)
    yield from affine(f"{attention}.{projection}", "blocks_{i}/attn/proj", PROJ_KERNEL)
