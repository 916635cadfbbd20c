"""What a probe puts on frozen features: one linear layer, or attentive pooling; and the latter's file."""

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
from timesformer_jax.errors import InputError
from timesformer_jax.modeling import INITIALIZATIONS, Features, TimeSformer, flatten_params
from timesformer_jax.modeling.attention import Attention
from timesformer_jax.modeling.implementations import mix
from timesformer_jax.modeling.layers import LayerNorm, Mlp, mlp_width
from timesformer_jax.state_files import read_arrays

KERNEL_INIT = INITIALIZATIONS["official"].linear
"""Of every linear layer here, and of the learned query: a normal with a standard deviation of 0.02."""


class LinearProbe(nn.Module):
    """One linear layer on the clip's CLS: `[B, D]` to float32 logits `[B, num_classes]`.

    The CLS comes out of the model's last LayerNorm, and the layer has the name and the shapes of the model's own classifier,
    whose place it can take.
    """

    num_classes: int

    @nn.compact
    def __call__(self, cls: Float[Array, "B D"]) -> Float[Array, "B classes"]:
        return _classifier(self.num_classes)(cls.astype(jnp.float32))


class AttentiveProbe(nn.Module):
    """Attentive pooling: a learned query asks all patches of the clip, and a linear layer reads the answer.

    Shapes: patches `[B, T, h, w, D]` to float32 logits `[B, num_classes]`. `depth` counts blocks: `depth` - 1 of self-attention
    over all patches of all frames, then the one of cross-attention; each with an MLP, LayerNorm first. `num_heads` divides D.
    `implementation`: a key of `IMPLEMENTATIONS` for self-attention, whose whole matrix of weights, T x h x w squared, is too
    large to be kept for every head that is trained.

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
            mixed, _ = attention(LayerNorm(name=f"{name}_norm1")(tokens)[:, None])  # all tokens are one group
            tokens = tokens + mixed[:, 0]
            tokens = tokens + mlp(f"{name}_mlp")(LayerNorm(name=f"{name}_norm2")(tokens))
        query = jnp.asarray(self.param("query", KERNEL_INIT, (1, 1, dim), jnp.float32), self.dtype)
        answer = CrossAttention(self.num_heads, dtype=self.dtype, name="cross_attn")(query, LayerNorm(name="norm1")(tokens))
        pooled = jnp.broadcast_to(query, answer.shape) + answer
        pooled = pooled + mlp("mlp")(LayerNorm(name="norm2")(pooled))
        return _classifier(self.num_classes)(pooled[:, 0].astype(jnp.float32))


class CrossAttention(nn.Module):
    """Multi-head attention of the same queries `[1, Q, D]` to every clip's tokens `[B, N, D]`: `[B, Q, D]`."""

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

        # A key's bias would add the same to all of a query's scores, and the softmax would take it away again.
        key, value = project(tokens, "key", use_bias=False), project(tokens, "value")
        asked = project(query, "query") * head_dim**-0.5
        asked = jnp.broadcast_to(asked, (len(tokens), *asked.shape[1:]))
        mixed = mix(asked, key, value, None)[:, 0].swapaxes(1, 2)  # [B, Q, heads, head_dim]
        return nn.DenseGeneral(dim, axis=(-2, -1), kernel_init=KERNEL_INIT, dtype=self.dtype, name="proj")(mixed)


def _classifier(num_classes: int) -> nn.Dense:
    return nn.Dense(num_classes, kernel_init=KERNEL_INIT, dtype=jnp.float32, name="head")


class ProbeKind(NamedTuple):
    """How a kind of probe is made, and what it reads."""

    make: Callable[[TimeSformer, int, int], Any]
    """(model, depth, num_heads) -> the module."""
    read: Callable[[Features], Array]


PROBES: dict[str, ProbeKind] = {
    "linear": ProbeKind(lambda model, depth, num_heads: LinearProbe(model.num_classes), lambda features: features.cls),
    "attentive": ProbeKind(
        lambda model, depth, num_heads: AttentiveProbe(model.num_classes, depth, num_heads, dtype=model.dtype),
        lambda features: features.patches,
    ),
}
"""`probe.kind` -> how."""


def make_probe(*, kind: str, model: TimeSformer, depth: int, num_heads: int) -> Any:
    """The probe `kind` of `PROBES` for this model's classes and features; a linear one has neither depth nor heads.

    Raises `InputError` for a kind that isn't in the table, and numbers that can't be.
    """
    if kind not in PROBES:
        raise InputError(f"probe.kind must be one of {', '.join(PROBES)}, got {kind!r}.")
    if depth < 1:
        raise InputError(f"probe.depth must be at least 1 (the block of cross-attention), got {depth}.")
    if num_heads < 1 or (kind == "attentive" and model.embed_dim % num_heads):
        raise InputError(f"probe.num_heads must be at least 1 and divide model.embed_dim={model.embed_dim}, got {num_heads}.")
    return PROBES[kind].make(model, depth, num_heads)


FIELDS = ("num_classes", "depth", "num_heads", "mlp_ratio")
"""Of an `AttentiveProbe`: what decides the shapes of its parameters and what they mean."""


def write_probe(path: Any, probe: AttentiveProbe, params: Any, notes: Mapping[str, Any]) -> None:
    """Writes an attentive probe as an .npz, whole or not at all: its parameters under their paths, float32, and as JSON `notes`
    with the probe's fields."""
    from etils import epath  # for paths in buckets; what builds and trains a probe does without

    path = epath.Path(path)
    content = io.BytesIO()
    text = json.dumps({**notes, "probe": {name: getattr(probe, name) for name in FIELDS}}, ensure_ascii=False)
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flatten_params(params).items()}
    np.savez(content, **arrays, notes=np.array(text))
    write_whole(path, content.getvalue())


def read_probe(path: Any) -> tuple[AttentiveProbe, Any, dict[str, Any]]:
    """The attentive probe in a file of `write_probe`, its parameters, and the notes.

    Its logits are `probe.apply({"params": params}, features.patches)`.

    Raises `InputError` for a file that isn't there, or is none of these.
    """
    from etils import epath

    path = epath.Path(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    try:
        arrays = read_arrays(path, remedy="train the probe again with --mode=probe")
        notes = json.loads(str(arrays.pop("notes")))
        probe = AttentiveProbe(**notes.pop("probe"))
    except InputError:
        raise
    except Exception as error:  # of zip files, arrays, JSON, fields
        raise InputError(f"{path} is no probe that this project has written.") from error
    return probe, unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()}), notes
