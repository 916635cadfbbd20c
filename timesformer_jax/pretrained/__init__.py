"""Loading, saving and converting weights in every published format."""

from timesformer_jax.labels import read_labels
from timesformer_jax.pretrained.architecture import Architecture, check_weights, read_architecture
from timesformer_jax.pretrained.convnet_formats import CONVNET_FORMATS
from timesformer_jax.pretrained.fit_to_model import POSITION_RESIZES
from timesformer_jax.pretrained.load import load, params_from_official
from timesformer_jax.pretrained.load_report import Report
from timesformer_jax.pretrained.pretrained import Prediction, Pretrained
from timesformer_jax.pretrained.save import (
    WRITERS,
    convert,
    save,
    save_huggingface,
    save_mmaction2,
    save_official,
    save_onnx,
    save_pyslowfast,
)
from timesformer_jax.pretrained.weight_formats import FORMATS
from timesformer_jax.pretrained.window_scores import Stretch, WindowScores
from timesformer_jax.pretrained.zoo import ZOO
from timesformer_jax.renamed import renamed

__all__ = [
    "CONVNET_FORMATS",
    "FORMATS",
    "POSITION_RESIZES",
    "WRITERS",
    "ZOO",
    "Architecture",
    "Prediction",
    "Pretrained",
    "Report",
    "Stretch",
    "WindowScores",
    "check_weights",
    "convert",
    "load",
    "params_from_official",
    "read_architecture",
    "read_labels",
    "save",
    "save_huggingface",
    "save_mmaction2",
    "save_official",
    "save_onnx",
    "save_pyslowfast",
]

__getattr__ = renamed(__name__, {"KINDS": "FORMATS"})
