"""Fine-tuning recipes derive the model, clip sizes and pixel normalisation from the weights."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

import main
import timesformer_jax as tsf
from configs.common import FOLLOWING
from experiment.data import clip_options
from experiment.follow import follow_weights, short_sides
from input_pipeline import ClipOptions
from tests.pretrained.files import golden_tensors, official_file, write_folder, write_safetensors
from tests.pretrained.test_image_models import CLIP_CONFIG, clip_tensors
from tests.runs import config_of, results
from tests.support import random_variables
from timesformer_jax.modeling import describe_model
from timesformer_jax.pretrained import WRITERS, Architecture
from timesformer_jax.pretrained.orbax import write_checkpoint

PREPROCESS = tsf.Preprocess(num_frames=4, crop_size=32, sampling_rate=2.0, mean=(0.1, 0.2, 0.3), channel_order="bgr")


def weights(kind: str, path: Path) -> Path:
    """A small model's weights in the given file format."""
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
        # The width is unusual, so the number of heads must be given.
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
    assert config.clips.short_side == (model["image_size"], round(model["image_size"] * 5 / 4))  # as `tsf.load` scales frames
    assert config.data.short_side == config.clips.short_side[0]
    states_rate = kind in ("timesformer_jax", "huggingface")
    span = 96 if recipe[0] == "hmdb51" else 8 if states_rate else 256
    assert config.clips.sampling_rate == span / model["num_frames"]
    sections = FOLLOWING.keys() - {"cnn"}  # read by other architectures
    assert all(config[section][name] is not None for section in sections for name in FOLLOWING[section])


def test_follow_weights_keeps_short_sides_of_the_released_models():
    assert (short_sides(224), short_sides(448)) == ((256, 320), (448, 512))
    assert short_sides(32) == (37, 46)


def test_follow_weights_keeps_given_fields(tmp_path: Path):
    source = weights("huggingface", tmp_path / "weights")
    recipe = functools.partial(config_of, "folder", "video_folder,finetune", init_from=str(source))
    given = {"model.image_size": 48, "model.num_frames": 2, "clips.short_side": (50, 60), "pixels.channel_order": "rgb"}
    config = follow_weights(recipe(**given, **{"clips.sampling_rate": 3.0}), str(tmp_path), "train")
    assert (config.model.image_size, config.model.num_frames, config.model.depth) == (48, 2, 2)
    assert (config.clips.short_side, config.clips.sampling_rate, config.data.short_side) == ((50, 60), 3.0, 50)
    assert (config.pixels.channel_order, tuple(config.pixels.mean)) == ("rgb", (0.1, 0.2, 0.3))
    for name, value, theirs, typed, remedy in (
        ("depth", 3, 2, ["model.depth"], "drop --config.model.depth, or choose other weights with --config.init_from"),
        ("num_heads", 3, 2, [], "set --config.model.num_heads=2, or use a recipe whose model follows the weights"),
    ):
        words = rf"^model.{name}={value} contradicts the weights in .*weights, which have {name}={theirs}: {remedy}"
        with pytest.raises(tsf.InputError, match=words):
            follow_weights(recipe(**{f"model.{name}": value}), str(tmp_path), "train", typed)
    with pytest.raises(tsf.InputError, match="no file or folder /no/such"):
        follow_weights(recipe(init_from="/no/such"), str(tmp_path), "train")
    with pytest.raises(tsf.InputError, match="There is no checkpoint in"):
        main.run(recipe(init_from="/no/such"), str(tmp_path), "eval")


def test_unsuitable_weights_are_rejected_before_preparation(tmp_path: Path):
    source = weights("huggingface", tmp_path / "weights")
    config = config_of("folder", init_from=str(source), **{"data.root": "/no/such"})
    with pytest.raises(tsf.InputError, match=r"embed_dim=128 contradicts .* set --config.model.embed_dim=24, or use a recipe"):
        main.run(config, str(tmp_path / "run"), "train")
    assert not (tmp_path / "run").exists()
    same = config_of("folder", init_from=str(source), **{f"model.{k}": v for k, v in SAVED.items()})
    assert follow_weights(same, str(tmp_path), "train").model.depth == 2


CLIP_PIXELS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def clip_folder(path: Path) -> Path:
    """A CLIP image tower with random weights, as Hugging Face saves it."""
    folder = write_folder(path, clip_tensors(), CLIP_CONFIG)
    pixels = {"image_mean": CLIP_PIXELS["mean"], "image_std": CLIP_PIXELS["std"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


@pytest.mark.parametrize("mode", ["train", "probe", "features"])
def test_jobs_prepare_clips_like_load_for_clip_models(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """No flag is needed, and the table in the log states the source."""
    source = clip_folder(tmp_path / "clip")
    with caplog.at_level("INFO", logger="timesformer_jax"):
        config = follow_weights(config_of("folder", "video_folder,finetune", init_from=str(source)), str(tmp_path), mode)
    loaded = tsf.load(source, num_classes=1)
    assert {name: config.model[name] for name in FOLLOWING["model"]} == {
        name: getattr(loaded.model, name) for name in FOLLOWING["model"]
    }
    clips = ClipOptions(num_frames=config.model.num_frames, crop_size=config.model.image_size, **config.clips)
    ours = {
        **{name: config.pixels[name] for name in FOLLOWING["pixels"]},
        **{name: config.clips[name] for name in ("sampling", "sampling_rate", "placement")},
        "short_side": clips.eval_short_side,
    }
    theirs = {name: getattr(loaded.preprocess, name) for name in ours}
    assert ours == {**theirs, "short_side": loaded.preprocess.short_side or loaded.preprocess.crop_size}
    rows = dict(re.findall(r"^  ([\w.]+) +(.*)$", caplog.text, re.MULTILINE))
    assert re.fullmatch(r"weights +this run +used", rows.pop("field"))
    assert re.fullmatch(r"quick_gelu +gelu \(default\) +weights", rows["model.activation"])
    assert {"model.pre_norm", "model.layer_norm_epsilon", "pixels.mean", "pixels.std"} < rows.keys()
    assert "pixels.channel_order" not in rows  # nothing differs


def test_config_settings_precede_init_from(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The table names the source: the paper's recipes set their own pixels, whatever they begin with."""
    source = clip_folder(tmp_path / "clip")
    given = {"model.image_size": 16, "clips.short_side": (20, 30), "clips.span": 64.0}
    with caplog.at_level("INFO", logger="timesformer_jax"):
        config = follow_weights(config_of("k400", init_from=str(source), **given), str(tmp_path), "train", ["clips.span"])
    assert (config.model.embed_dim, config.model.pre_norm, config.pixels.mean) == (24, True, (0.45,) * 3)
    assert config.clips.sampling_rate == 8  # the span on the command line, not the recipe's rate
    assert re.search(r"pixels.mean +0.481455, 0.457827, 0.408211 +0.45, 0.45, 0.45 \(config\) +this run\n", caplog.text)


@pytest.mark.parametrize("given", [None, "gelu"])
def test_guesses_are_reported_with_the_deciding_setting(given: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = write_safetensors(tmp_path / "clip", clip_tensors())  # without a config next to it
    fields: dict[str, Any] = {"model.num_heads": 3, **({"model.activation": given} if given else {})}
    config = config_of("folder", "video_folder,finetune", init_from=str(source), **fields)
    with caplog.at_level("INFO", logger="timesformer_jax"):
        config = follow_weights(config, str(tmp_path), "train", list(fields))
    assert config.model.activation == (given or "quick_gelu")
    assert re.search(r"^  model.activation +quick_gelu \(guess\) ", caplog.text, re.MULTILINE)
    line = (
        r"model.activation=quick_gelu is guessed because no tensor shows it: .* Set --config.model.activation to override it\."
    )
    assert bool(re.search(line, caplog.text)) == (given is None)
    assert "num_heads=3 is guessed" not in caplog.text


def test_weights_of_segments_have_no_sampling_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = tmp_path / "weights"
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)
    segments = dataclasses.replace(PREPROCESS, sampling="segments")
    tsf.save_huggingface(tsf.Pretrained(model, random_variables(model)["params"], segments, ("a", "b", "c")), source)
    config = config_of("folder", "video_folder,finetune", init_from=str(source), **{"clips.sampling": "uniform"})
    with caplog.at_level("INFO", logger="timesformer_jax"):
        assert follow_weights(config, str(tmp_path), "train").clips.sampling_rate == 64
    assert "clips.sampling_rate" not in caplog.text


def test_segments_do_not_inherit_tiles(tmp_path: Path):
    """Tiled clips come from HowTo100M models, but the recipe for few videos spreads a clip over the whole video."""
    source = tmp_path / "weights"
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)
    tiled = dataclasses.replace(PREPROCESS, placement="tiled")
    tsf.save(tsf.Pretrained(model, random_variables(model)["params"], tiled, ("a", "b", "c")), source)
    for variant, placement in (("finetune,small", "official"), ("finetune", "tiled")):
        config = config_of("folder", f"video_folder,{variant}", init_from=str(source))
        assert clip_options(follow_weights(config, str(tmp_path / "run"), "train")).placement == placement


def test_errors_name_the_typed_flag(tmp_path: Path):
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)
    notes = {"model": describe_model(model), "preprocess": PREPROCESS.as_dict(), "data": {"label_names": ["a", "b", "c"]}}
    write_checkpoint(tmp_path / "checkpoints" / "1", random_variables(model)["params"], notes)
    for field, words in (
        ("span", "--config.clips.span makes clips.sampling_rate"),
        ("sampling_rate", "clips.sampling_rate is"),
    ):
        given: dict[str, Any] = {f"clips.{field}": 40.0 if field == "span" else 10.0}
        with pytest.raises(tsf.InputError, match=f"{words} 10, and the checkpoint has 2"):
            follow_weights(config_of("folder", **given), str(tmp_path), "train", list(given))


PAPER = [(file, variant) for file in ("k400", "k600", "ssv2", "diving48", "howto100m") for variant in ("default", "modern")]
SCHEME = {name: FOLLOWING["model"][name] for name in ("attention_type", "num_frames", "image_size")}


@pytest.mark.parametrize(("file", "variant"), PAPER)
def test_paper_recipes_are_independent_of_their_initial_weights(
    file: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Clips, pixels, scheme and frame sizes stay, even if the weights state otherwise."""
    config = config_of(file, None if variant == "default" else variant, init_from="weights")
    stated = {"sampling": "segments", "sampling_rate": 3.0, "placement": "dense", "channel_order": "bgr", "short_side": 400}
    stated |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    stated |= {"sampling": "uniform", "channel_order": "rgb"} if file == "ssv2" else {}
    fields = {**FOLLOWING["model"], "attention_type": "space_only", "num_frames": 4, "image_size": 384}
    weights = Architecture(fields, tsf.Preprocess(num_frames=8, crop_size=224, **stated), stated)
    monkeypatch.setattr("experiment.follow.read_architecture", lambda *_, **__: weights)
    filled = follow_weights(config, str(tmp_path), "train")
    assert {name: filled.model[name] for name in SCHEME} == SCHEME
    for section in ("clips", "pixels"):
        for name in FOLLOWING[section]:
            assert filled[section][name] == config[section][name] is not None, f"{section}.{name}"


def test_checkpoint_without_metadata_leaves_the_config_unchanged(tmp_path: Path):
    """Checkpoints of older versions state nothing, so the config decides."""
    model = tsf.TimeSformer(3, image_size=32, patch_size=8, num_frames=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)
    notes = {"model": describe_model(model), "data": {"label_names": ["a", "b", "c"]}}
    write_checkpoint(tmp_path / "checkpoints" / "1", random_variables(model)["params"], notes)
    for mode in ("train", "eval"):
        config = follow_weights(config_of("folder", **{"pixels.mean": (0.1, 0.2, 0.3)}), str(tmp_path), mode)
        assert (config.pixels.mean, config.clips.sampling_rate, config.clips.short_side) == ((0.1, 0.2, 0.3), 8.0, (72, 96))
    assert follow_weights(config_of("folder"), str(tmp_path), "eval").pixels.mean == (0.45,) * 3


@pytest.mark.slow
def test_finetune_and_evaluate_without_fields_of_the_model(tmp_path: Path, made_clips: Path, data_dir: str):
    """The same config evaluates after the weights are gone, since the workdir's checkpoint describes the model."""
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


def test_init_from_one_of_several_models_without_a_new_head(tmp_path: Path):
    """`init_from_prefix` and `init_from_allow` reach every reader of the weights."""
    vit = golden_tensors("inflate_divided_space_time", "vit/")
    vit["aux_norm.weight"] = vit["norm.weight"]
    both = {f"{model}.{name}": tensor for model in ("student", "teacher") for name, tensor in vit.items()}
    source = write_safetensors(tmp_path / "weights", both)
    given = {"init_from": str(source), "model.num_heads": 3}
    with pytest.raises(tsf.InputError, match=r"several models, under the prefixes student.* in a config init_from_prefix\)"):
        follow_weights(config_of("folder", "video_folder,finetune", **given), str(tmp_path), "train")
    given["init_from_prefix"] = "teacher."
    config = config_of("folder", "video_folder,finetune", **given)
    with pytest.raises(tsf.InputError, match=r"aux_norm\.weight .*: no place in the model.*init_from_allow"):
        follow_weights(config, str(tmp_path), "train")
    config.init_from_allow = ("aux_.*",)
    assert follow_weights(config, str(tmp_path), "train").model.depth == 2
    config.init_from_entry = "model_ema"
    with pytest.raises(tsf.InputError, match="without entries such as 'model_ema'"):
        follow_weights(config, str(tmp_path), "train")
