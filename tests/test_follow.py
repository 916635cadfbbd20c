"""Fine-tuning recipes take the model, the sizes of clips and their pixels from the weights."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

import main
import timesformer_jax as tsf
from experiment.checks import check_init_from
from experiment.follow import check_fields, follow_weights, short_sides
from tests.pretrained.files import golden_tensors, official_file, write_safetensors
from tests.runs import config_of, results
from tests.support import random_variables
from timesformer_jax.pretrained import WRITERS

PREPROCESS = tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=2.0, mean=(0.1, 0.2, 0.3), channel_order="bgr")


def weights(kind: str, path: Path) -> Path:
    """A small model's weights, whatever the kind of file."""
    if kind == "official":
        return official_file(path)
    if kind == "timm":
        return write_safetensors(path, golden_tensors("inflate_divided_space_time", "vit/"))
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)
    params = random_variables(model)["params"]
    WRITERS[kind](tsf.Pretrained(model, params, PREPROCESS, ("a", "b", "c")), path)
    return path


SAVED = {"image_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
GOLDEN = {"image_size": 16, "patch_size": 4, "num_frames": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0}


@pytest.mark.parametrize(
    ("kind", "given", "model", "pixels"),
    [
        ("timesformer_jax", {}, SAVED, ((0.1, 0.2, 0.3), "bgr")),
        ("huggingface", {}, SAVED, ((0.1, 0.2, 0.3), "bgr")),
        # Their width is nobody's custom, so the number of heads must be given.
        ("official", {"model.num_heads": 3}, {**GOLDEN, "attention_type": "divided_space_time"}, ((0.45,) * 3, "rgb")),
        ("timm", {"model.num_heads": 3}, {**GOLDEN, "num_frames": 8}, ((0.45,) * 3, "rgb")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("recipe", [("folder", "video_folder,finetune"), ("hmdb51", None)], ids=["folder", "hmdb51"])
def test_follow_weights_of_any_kind(recipe, kind: str, given: dict[str, Any], model: dict, pixels: tuple, tmp_path: Path):
    source = weights(kind, tmp_path / "weights")
    config = follow_weights(config_of(*recipe, init_from=str(source), **given), str(tmp_path), "train")
    assert {name: config.model[name] for name in model} == model
    assert (tuple(config.pixels.mean), config.pixels.channel_order) == pixels
    assert config.clips.short_side == short_sides(model["image_size"])
    assert config.data.short_side == config.clips.short_side[0]
    span = 96 if recipe[0] == "hmdb51" else 256
    assert config.clips.sampling_rate == span / model["num_frames"]


def test_short_sides_of_the_released_models():
    assert (short_sides(224), short_sides(448)) == ((256, 320), (448, 512))
    assert short_sides(32) == (37, 46)


def test_follow_weights_keeps_what_is_given(tmp_path: Path):
    source = weights("huggingface", tmp_path / "weights")
    recipe = functools.partial(config_of, "folder", "video_folder,finetune", init_from=str(source))
    given = {"model.image_size": 48, "model.num_frames": 2, "clips.short_side": (50, 60), "pixels.channel_order": "rgb"}
    config = follow_weights(recipe(**given, **{"clips.sampling_rate": 3.0}), str(tmp_path), "train")
    assert (config.model.image_size, config.model.num_frames, config.model.depth) == (48, 2, 2)
    assert (config.clips.short_side, config.clips.sampling_rate, config.data.short_side) == ((50, 60), 3.0, 50)
    assert (config.pixels.channel_order, tuple(config.pixels.mean)) == ("rgb", (0.1, 0.2, 0.3))
    with pytest.raises(tsf.InputError, match=r"^model.depth=3 contradicts the weights in .*weights, which have depth=2: leave"):
        follow_weights(recipe(**{"model.depth": 3}), str(tmp_path), "train")
    with pytest.raises(
        tsf.InputError, match=r"^model.num_heads=3 contradicts the weights in .*weights, which have num_heads=2"
    ):
        follow_weights(recipe(**{"model.num_heads": 3}), str(tmp_path), "train")
    with pytest.raises(tsf.InputError, match="no file or folder /no/such"):
        follow_weights(recipe(init_from="/no/such"), str(tmp_path), "train")
    with pytest.raises(tsf.InputError, match="There is no checkpoint in"):
        main.run(recipe(init_from="/no/such"), str(tmp_path), "eval")


def test_follow_weights_leaves_a_recipe_alone_that_sets_everything(tmp_path: Path):
    for name in ("folder", "moving_digits", "k400"):
        config = config_of(name, init_from="/no/such")
        assert follow_weights(config, str(tmp_path), "train") is config


def test_weights_that_do_not_fit_are_refused_before_data_are_prepared(tmp_path: Path):
    source = weights("huggingface", tmp_path / "weights")
    config = config_of("folder", init_from=str(source), **{"data.root": "/no/such"})
    with pytest.raises(tsf.InputError, match=r"embed_dim=128 contradicts .* set --config.model.embed_dim=24, or use a recipe"):
        main.run(config, str(tmp_path / "run"), "train")
    assert not (tmp_path / "run").exists()
    check_fields(config_of("folder", init_from=str(source), **{f"model.{k}": v for k, v in SAVED.items()}))


@pytest.mark.slow
def test_finetune_and_evaluate_without_fields_of_the_model(tmp_path: Path, made_clips: Path, data_dir: str):
    """The same config evaluates after the weights are gone: the workdir's checkpoint knows the model."""
    source = weights("huggingface", tmp_path / "weights")
    config = config_of(
        "folder",
        "video_folder,finetune",
        **{
            "init_from": str(source),
            "data.root": str(made_clips),
            "data.data_dir": data_dir,
            "train.num_epochs": 1.0,
            "train.batch_size": 8,
            "eval.batch_size": 8,
        },
    )
    with jax.numpy_dtype_promotion("standard"):
        main.run(config, str(tmp_path / "run"), "train")
        trained = results(tmp_path / "run")
        assert {name: trained["model"][name] for name in SAVED} == SAVED
        shutil.rmtree(source)
        main.run(config, str(tmp_path / "run"), "eval")
    assert results(tmp_path / "run") == trained
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["depth"] == 2
    again = tsf.load(tmp_path / "run")
    assert (again.preprocess.mean, again.preprocess.channel_order) == (PREPROCESS.mean, "bgr")


def test_one_of_several_models_without_another_head(tmp_path: Path):
    """`init_from_prefix` and `init_from_allow` reach whatever reads the weights."""
    vit = golden_tensors("inflate_divided_space_time", "vit/")
    vit["aux_norm.weight"] = vit["norm.weight"]
    both = {f"{model}.{name}": tensor for model in ("student", "teacher") for name, tensor in vit.items()}
    source = write_safetensors(tmp_path / "weights", both)
    given = {"init_from": str(source), "model.num_heads": 3}
    with pytest.raises(tsf.InputError, match="several models, under the prefixes student"):
        follow_weights(config_of("folder", "video_folder,finetune", **given), str(tmp_path), "train")
    given["init_from_prefix"] = "teacher."
    config = follow_weights(config_of("folder", "video_folder,finetune", **given), str(tmp_path), "train")
    with pytest.raises(tsf.InputError, match=r"aux_norm\.weight .*: no place in the model.*init_from_allow"):
        check_init_from(config, str(tmp_path))
    config.init_from_allow = ("aux_.*",)
    check_init_from(config, str(tmp_path))
    config.init_from_entry = "model_ema"
    with pytest.raises(tsf.InputError, match="without entries such as 'model_ema'"):
        check_init_from(config, str(tmp_path))
