"""Queries, keys and values of an attention step (paper equations 2 to 4), and its result by position."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from timesformer_jax._typing import Array, Float
from timesformer_jax.modeling.schemes import Grouping


class Mixed(NamedTuple):
    """Values mixed by the attention weights of each head (equation 7)."""

    patches: Any
    """At each patch, `[B, T, N, h, d]`; None if only the CLS acts as a query."""
    cls: Any
    """At each group's copy of the CLS, `[B, G, h, d]`; None if there is none, or if it isn't a query."""


class Strides(NamedTuple):
    """Groups as a view `[B, X, L, Y, D]` of the patches `[B, T, N, D]`, in which no group has to be copied together."""

    x: int
    length: int
    y: int


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("x", "kernel", "bias", "cls"), meta_fields=("grouping", "sizes")
)
@dataclasses.dataclass(frozen=True)
class Projections:
    """Inputs and parameters of equations 2 to 4, from which each implementation computes q, k and v in its own layout.

    Attributes:
        x: Patches of T frames, `[B, T, N, D]`; or G groups of L tokens, `[B, G, L, D]`, if `grouping` is None.
        kernel: Packed kernel of the query, key and value projections, `[D, 3, h, d]`.
        bias: Packed bias of the projections, `[3, h, d]`.
        cls: CLS of the clip or of each group, `[B, 1 or G, D]`, which joins each group as its last token; None for none.
        grouping: Groups of patches that attend to each other.
        sizes: Numbers of frames, rows and columns of patches.
    """

    x: Any
    kernel: Any
    bias: Any
    cls: Any = None
    grouping: Grouping | None = None
    sizes: tuple[int, int, int] = (0, 0, 0)

    @property
    def num_groups(self) -> int:
        """Number G of groups."""
        return self.x.shape[1] if self.grouping is None else self.grouping.shape(self.sizes)[0]

    @property
    def length(self) -> int:
        """Number L of tokens per group, including the CLS."""
        patches = self.x.shape[2] if self.grouping is None else self.grouping.shape(self.sizes)[1]
        return patches + (self.cls is not None)

    @property
    def head_dim(self) -> int:
        """Width d of one head."""
        return self.kernel.shape[-1]

    @property
    def strides(self) -> Strides | None:
        """Groups as a view of the patches; None if there is no such view."""
        if self.grouping is None:
            return Strides(self.x.shape[1], self.x.shape[2], 1)
        strides = self.grouping.strides(self.sizes)
        return None if strides is None else Strides(*strides)

    @property
    def strides_once_split(self) -> Strides:
        """Groups as a view of the patches, brought together by `split` if necessary."""
        return self.strides or Strides(self.num_groups, self.length - (self.cls is not None), 1)

    @property
    def tokens(self) -> Float[Array, "B G L D"]:
        """Tokens of each group, including the CLS.

        The CLS comes last, so that it doesn't shift the patches in the tiles of a TPU's memory.
        """
        groups = self.split().x
        if self.cls is None:
            return groups
        copies = jnp.broadcast_to(self.cls, (groups.shape[0], groups.shape[1], groups.shape[3]))[:, :, None]
        return jnp.concatenate([groups, copies], axis=2)

    def ungroup(self, mixed: Float[Array, "B G Q h d"], queries: slice) -> Mixed:
        """Return the values mixed for a slice of the groups' tokens to the positions of the patches."""
        kept = list(range(self.length)[queries])
        cls = mixed[:, :, -1] if self.cls is not None and self.length - 1 in kept else None
        patches = mixed if cls is None else mixed[:, :, :-1]
        return Mixed(self.merge(patches) if patches.shape[2] else None, cls)

    def split(self) -> "Projections":
        """Bring the patches of each group together."""
        if self.grouping is None:
            return self
        return dataclasses.replace(self, x=self.grouping.split(self.x, self.sizes), grouping=None)

    def merge(self, patches: Float[Array, "B G L h d"]) -> Float[Array, "B T N h d"]:
        """Return the patches of each group to their positions."""
        if self.grouping is None:
            return patches
        batch, groups, length, heads, head_dim = patches.shape
        merged = self.grouping.merge(patches.reshape(batch, groups, length, heads * head_dim), self.sizes)
        return merged.reshape(*merged.shape[:-1], heads, head_dim)

    def heads_first(self, queries: slice = slice(None)) -> tuple[Array, Array, Array]:
        """Return the query `[B, G, h, Q, d]`, divided by sqrt(d), and key and value `[B, G, h, L, d]`.

        Only the tokens in the slice `queries` are projected to queries. Although the parameters are packed, query, key and
        value are computed by separate products: each result has its heads before its tokens, as the batched products that
        follow expect, and no gradients need to be concatenated. In temporal attention on XLA:CPU, this takes 0.8 times as long
        as one packed product.
        """

        @jax.named_scope("qkv")
        def project(which: int, x: Array) -> Array:
            flat = x @ self._matrix(which) + self.bias[which].reshape(-1)[None, None, None]
            return flat.reshape(*x.shape[:-1], *self.kernel.shape[2:]).swapaxes(2, 3)

        tokens = self.tokens
        return project(0, tokens[:, :, queries]) * self.head_dim**-0.5, project(1, tokens), project(2, tokens)

    @jax.named_scope("qkv")
    def tokens_first(self, pad: int = 0) -> tuple[Array, Array, Array]:
        """Return query, key and value `[B, G, L + pad, h, d]`, with `pad` tokens of zeros appended to the input."""
        x = jnp.pad(self.tokens, ((0, 0), (0, 0), (0, pad), (0, 0)))

        def project(which: int) -> Array:
            flat = x @ self._matrix(which)
            return flat.reshape(*x.shape[:-1], *self.kernel.shape[2:]) + self.bias[which][None, None, None]

        return project(0), project(1), project(2)

    @jax.named_scope("qkv")
    def packed(self) -> tuple[Float[Array, "B T N qkv"], Float[Array, "B F qkv"] | None]:
        """Return query, key and value of the patches, and of the CLS, as one product each, without the bias."""
        matrix = self.kernel.reshape(self.kernel.shape[0], -1)
        return self.x @ matrix, None if self.cls is None else self.cls @ matrix

    def _matrix(self, which: int) -> Float[Array, "D D"]:
        """Return the kernel of queries, keys or values as a matrix; the reshapes don't cut through heads split over devices."""
        dim = self.kernel.shape[0]
        return self.kernel.reshape(dim, 3, -1)[:, which]
