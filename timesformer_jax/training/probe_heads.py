"""Probe heads on frozen features: a linear layer or attentive pooling, and the file format of the latter."""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from flax.typing import Dtype

from timesformer_jax._typing import Array, Float
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.checks import check_choice
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import INITIALIZATIONS, clip_vector, flatten_params
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.implementations import mix
from timesformer_jax.modeling.layers import LayerNorm, Mlp, mlp_width
from timesformer_jax.state_files import read_arrays

KERNEL_INIT = INITIALIZATIONS["official"].linear
"""Initializer of all linear layers here and of the learned query: normal with a standard deviation of 0.02."""


class LinearProbe(nn.Module):
    """Linear layer on the CLS token of a clip: `[B, D]` to float32 logits `[B, num_classes]`.

    The CLS token is the output of the model's last LayerNorm, and the layer has the name and shapes of the model's classifier,
    so it can replace that classifier.

    Attributes:
        num_classes: Number of classes.
    """

    num_classes: int

    @nn.compact
    def __call__(self, cls: Float[Array, "B D"]) -> Float[Array, "B classes"]:
        return _classifier(self.num_classes)(cls.astype(jnp.float32))


class AttentiveProbe(nn.Module):
    """Attentive pooling: a learned query attends to all patches of a clip, followed by a linear layer.

    Maps patches `[B, T, h, w, D]` to float32 logits `[B, num_classes]`.

    Attributes:
        num_classes: Number of classes.
        depth: Number of pre-norm blocks with an MLP each: `depth - 1` blocks of self-attention over all patches of all frames,
            then one of cross-attention.
        num_heads: Number of attention heads; must divide D.
        mlp_ratio: Hidden width of the MLPs, as a multiple of D.
        implementation: Implementation of self-attention, a key of `IMPLEMENTATIONS`. The full matrix of attention weights, of
            side T x h x w, is too large to keep for every head that is trained.
        dtype: Dtype of the computation.

    Source: V-JEPA (Bardes et al. 2024, attentive probe), V-JEPA 2 (Assran et al. 2025: four blocks, 16 heads).
    """

    num_classes: int
    depth: int = 1
    num_heads: int = 16
    mlp_ratio: float = 4.0
    implementation: str = "chunked"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, patches: Float[Array, "B T h w D"]) -> Float[Array, "B classes"]:
        batch, dim = patches.shape[0], patches.shape[-1]
        tokens = patches.reshape(batch, -1, dim).astype(self.dtype)

        def mlp(name: str) -> Mlp:
            return Mlp(mlp_width(dim, self.mlp_ratio), kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)

        for i in range(self.depth - 1):
            name = f"blocks_{i}"
            attention = Attention(
                dim,
                self.num_heads,
                kernel_init=KERNEL_INIT,
                dtype=self.dtype,
                implementation=self.implementation,
                name=f"{name}_attn",
            )
            mixed, _ = attention(LayerNorm(name=f"{name}_norm1")(tokens)[:, None])  # one group with all tokens
            tokens = tokens + mixed[:, 0]
            tokens = tokens + mlp(f"{name}_mlp")(LayerNorm(name=f"{name}_norm2")(tokens))
        query = jnp.asarray(self.param("query", KERNEL_INIT, (1, 1, dim), jnp.float32), self.dtype)
        answer = CrossAttention(self.num_heads, dtype=self.dtype, name="cross_attn")(query, LayerNorm(name="norm1")(tokens))
        pooled = jnp.broadcast_to(query, answer.shape) + answer
        pooled = pooled + mlp("mlp")(LayerNorm(name="norm2")(pooled))
        return _classifier(self.num_classes)(pooled[:, 0].astype(jnp.float32))


class CrossAttention(nn.Module):
    """Multi-head attention of shared queries `[1, Q, D]` to each clip's tokens `[B, N, D]`; returns `[B, Q, D]`.

    Attributes:
        num_heads: Number of attention heads; must divide D.
        dtype: Dtype of the computation.
    """

    num_heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, query: Float[Array, "1 Q D"], tokens: Float[Array, "B N D"]) -> Float[Array, "B Q D"]:
        dim = query.shape[-1]
        head_dim = dim // self.num_heads

        def project(x: Array, name: str, use_bias: bool = True) -> Array:  # [b, n, D] -> [b, 1, heads, n, head_dim]
            shape = (self.num_heads, head_dim)
            layer = nn.DenseGeneral(shape, kernel_init=KERNEL_INIT, use_bias=use_bias, dtype=self.dtype, name=name)
            return layer(x)[:, None].swapaxes(2, 3)

        # A key bias would shift all scores of a query equally, which the softmax cancels.
        key, value = project(tokens, "key", use_bias=False), project(tokens, "value")
        asked = project(query, "query") * head_dim**-0.5
        asked = jnp.broadcast_to(asked, (len(tokens), *asked.shape[1:]))
        mixed = mix(asked, key, value, None)[:, 0].swapaxes(1, 2)  # [B, Q, heads, head_dim]
        return nn.DenseGeneral(dim, axis=(-2, -1), kernel_init=KERNEL_INIT, dtype=self.dtype, name="proj")(mixed)


def _classifier(num_classes: int) -> nn.Dense:
    return nn.Dense(num_classes, kernel_init=KERNEL_INIT, dtype=jnp.float32, name="head")


class ProbeKind(NamedTuple):
    """Constructor and input of a kind of probe."""

    make: Callable[[Any, int, int], Any]
    """Maps (model, depth, num_heads) to the module."""
    read: Callable[[Any], Array]
    """Selects the features that the probe reads."""


PROBES: dict[str, ProbeKind] = {
    "linear": ProbeKind(lambda model, depth, num_heads: LinearProbe(model.num_classes), clip_vector),
    "attentive": ProbeKind(
        lambda model, depth, num_heads: AttentiveProbe(model.num_classes, depth, num_heads, dtype=model.dtype),
        lambda features: features.patches,
    ),
}
"""Maps `probe.kind` to its definition."""


def make_probe(*, kind: str, model: nn.Module, depth: int, num_heads: int) -> Any:
    """Make a probe for a model's classes and features.

    Args:
        kind: Kind of probe, a key of `PROBES`.
        model: The frozen model. An attentive probe needs a TimeSformer's patches.
        depth: Number of blocks; ignored by a linear probe.
        num_heads: Number of attention heads; ignored by a linear probe.

    Raises:
        InputError: If the kind is unknown or a number is out of range.
    """
    check_choice("probe.kind", kind, PROBES)
    if depth < 1:
        raise InputError(f"probe.depth must be at least 1 (the block of cross-attention), got {depth}.")
    width = getattr(model, "embed_dim", 0)
    if num_heads < 1 or (kind == "attentive" and width % num_heads):
        raise InputError(f"probe.num_heads must be at least 1 and divide model.embed_dim={width}, got {num_heads}.")
    return PROBES[kind].make(model, depth, num_heads)


FIELDS = ("num_classes", "depth", "num_heads", "mlp_ratio")
"""Fields of an `AttentiveProbe` that determine the shapes and the meaning of its parameters."""


def write_probe(path: Any, probe: AttentiveProbe, params: Any, notes: Mapping[str, Any]) -> None:
    """Write an attentive probe to an .npz file, atomically.

    Args:
        path: File to write, local or in a bucket.
        probe: The probe; its `FIELDS` are stored with the notes.
        params: Its parameters, stored as float32 under their paths.
        notes: JSON to store.
    """
    from etils import epath  # for paths in buckets; building and training a probe doesn't need it

    path = epath.Path(path)
    content = io.BytesIO()
    text = json.dumps({**notes, "probe": {name: getattr(probe, name) for name in FIELDS}}, ensure_ascii=False)
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flatten_params(params).items()}
    np.savez(content, **arrays, notes=np.array(text))
    write_whole(path, content.getvalue())


def read_probe(path: Any) -> tuple[AttentiveProbe, Any, dict[str, Any]]:
    """Read a file of `write_probe`.

    Returns:
        The probe, its parameters and the notes. The logits are `probe.apply({"params": params}, features.patches)`.

    Raises:
        InputError: If the file doesn't exist, is damaged, or is not a probe.
    """
    from etils import epath

    path = epath.Path(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    try:
        arrays = read_arrays(path, remedy="train the probe again")
        notes = json.loads(str(arrays.pop("notes")))
        probe = AttentiveProbe(**notes.pop("probe"))
    except InputError:
        raise
    except Exception as error:  # of zip files, arrays, JSON, fields
        raise InputError(f"{path} is not a probe written by this project.") from error
    return probe, unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()}), notes
