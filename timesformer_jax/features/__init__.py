"""Features of many videos on disk: the available kinds, writing and reading."""

from timesformer_jax.features.kinds import KINDS, extract, value_shape
from timesformer_jax.features.reading import FeatureSet, read_features
from timesformer_jax.features.writing import (
    DTYPES,
    LOCK,
    TILED_CLIPS,
    FeatureWriter,
    ShardRows,
    check_folder,
    check_options,
    count_shards,
    describe_features,
    folder_at,
    weights_digest,
)

__all__ = [
    "DTYPES",
    "KINDS",
    "LOCK",
    "TILED_CLIPS",
    "FeatureSet",
    "FeatureWriter",
    "ShardRows",
    "check_folder",
    "check_options",
    "count_shards",
    "describe_features",
    "extract",
    "folder_at",
    "read_features",
    "value_shape",
    "weights_digest",
]
