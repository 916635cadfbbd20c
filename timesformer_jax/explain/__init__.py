"""Explanations of predictions: attention rollout, class-specific relevance, Grad-CAM, and drawings of both."""

from timesformer_jax.explain.drawing import gif_bytes, overlay
from timesformer_jax.explain.feature_maps import grad_cam
from timesformer_jax.explain.film import Film, draw_on_video
from timesformer_jax.explain.mapped_clip import MappedClip
from timesformer_jax.explain.pointing import box_mask, inside_over_outside
from timesformer_jax.explain.relevance import class_relevance
from timesformer_jax.explain.rollout import attention_rollout

__all__ = [
    "Film",
    "MappedClip",
    "attention_rollout",
    "box_mask",
    "class_relevance",
    "draw_on_video",
    "gif_bytes",
    "grad_cam",
    "inside_over_outside",
    "overlay",
]
