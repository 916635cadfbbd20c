"""Model of a run on its mesh, with the preparation of its clips."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

import timesformer_jax as tsf
from experiment.init_from import allowed_of_init_from, choice_of_init_from
from input_pipeline import MixingOptions, PixelOptions, prepare_eval, prepare_training
from timesformer_jax import evaluation, training


class RunModel:
    """Model that a run trains or evaluates, for its classes.

    Attributes:
        module: The Flax module.
        mesh: Mesh of the devices.
        objective: A key of `training.OBJECTIVES`.
        pixels: Augmentation of training clips, and normalisation.
        mixing: Mixing of training clips.
        score: The model's `evaluation.make_score_fn`.
    """

    def __init__(self, module: Any, mesh: Mesh, objective: str, pixels: PixelOptions, mixing: MixingOptions):
        self.module, self.mesh, self.objective, self.pixels, self.mixing = module, mesh, objective, pixels, mixing
        self.score = evaluation.make_score_fn(model=module, prepare=self.prepare_eval, mesh=mesh, objective=objective)

    @property
    def prepare_training(self) -> Callable[..., jax.Array]:
        """Function (key, batch) -> clips that augments a training batch on the devices."""
        sharding = training.batch_sharding(self.mesh) if self.mesh.size > 1 else None
        return functools.partial(prepare_training, options=self.pixels, split=sharding)

    @property
    def prepare_eval(self) -> Callable[[dict[str, jax.Array]], jax.Array]:
        """Function batch -> clips that crops and normalises an evaluation batch."""
        return functools.partial(prepare_eval, options=self.pixels)

    def load_init_from(self, config: Any, label_names: list[str]) -> tsf.Pretrained:
        """Load the weights that `init_from` names into this model; rows of the classifier are matched by label.

        Embeddings that the config disables are dropped, as reported in the log.
        """
        return tsf.load(
            config.init_from,
            model=self.module,
            num_classes=len(label_names),
            labels=label_names,
            objective=self.objective,
            key=jax.random.key(config.seed),
            allow=allowed_of_init_from(config),
            **choice_of_init_from(config),
        )
