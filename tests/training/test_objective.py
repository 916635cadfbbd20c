"""Targets and losses: smoothing, mixed clips, multi-label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timesformer_jax.training.objective import OBJECTIVES, hits, make_targets

LOGITS = jax.random.normal(jax.random.key(0), (4, 3))
LABELS, OTHERS = jnp.array([0, 1, 2, 0]), jnp.array([2, 2, 1, 0])
SHARE = jnp.array([1.0, 0.25, 0.0, 0.5])
SEVERAL = jnp.array([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])


def test_mixed_loss_weighs_both_labels_by_their_shares():
    each = -jax.nn.log_softmax(LOGITS)
    rows = jnp.arange(4)
    expected = SHARE * each[rows, LABELS] + (1 - SHARE) * each[rows, OTHERS]
    loss = OBJECTIVES["softmax"].loss(LOGITS, make_targets(LABELS, 3, others=OTHERS, share=SHARE))
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    np.testing.assert_allclose(OBJECTIVES["softmax"].loss(LOGITS, make_targets(LABELS, 3)), each[rows, LABELS], atol=1e-6)


def test_label_smoothing_matches_pytorch():
    """Each class has smoothing / classes, and the right one additionally the rest."""
    targets = make_targets(LABELS, 3, smoothing=0.3)
    np.testing.assert_allclose(targets[0], [0.8, 0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(make_targets(SEVERAL, 3, smoothing=0.2)[0], [0.9, 0.1, 0.9], atol=1e-6)
    mixed = make_targets(LABELS, 3, smoothing=0.3, others=OTHERS, share=SHARE)
    np.testing.assert_allclose(mixed.sum(axis=1), np.ones(4), atol=1e-6)
    np.testing.assert_allclose(mixed[1], [0.1, 0.1 + 0.7 * 0.25, 0.1 + 0.7 * 0.75], atol=1e-6)


def test_multi_label_loss_is_binary_per_class():
    p = 1 / (1 + np.exp(-np.asarray(LOGITS)))
    expected = -(SEVERAL * np.log(p) + (1 - SEVERAL) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(OBJECTIVES["sigmoid"].loss(LOGITS, make_targets(SEVERAL, 3)), expected, atol=1e-6)
    np.testing.assert_allclose(OBJECTIVES["sigmoid"].scores(LOGITS), p, atol=1e-6)


def test_hits_count_top_predictions():
    logits = jnp.eye(3)[jnp.array([0, 2, 1, 0])]
    assert hits(logits, LABELS).tolist() == [1, 0, 0, 1]
    assert hits(logits, LABELS, OTHERS, SHARE).tolist() == pytest.approx([1, 0.75, 1, 1])
    assert hits(logits, SEVERAL).tolist() == [1, 0, 1, 1]
