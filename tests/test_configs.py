"""Recipes: their files' claims, valid fields, and training of small copies."""

import dataclasses
import functools
import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import main
import timesformer_jax as tsf
from configs import common, recipes
from experiment.architectures import SECTION_OF, class_of, model_fields
from experiment.follow import follow_weights
from input_pipeline import DATASETS, ClipOptions, MixingOptions, PixelOptions, mix_clips, open_dataset, prepare_training
from tests.runs import config_of
from tests.support import moving_square, write_video
from timesformer_jax import InputError, training
from timesformer_jax.architectures import ARCHITECTURES
from timesformer_jax.cost import count_multiply_adds
from timesformer_jax.modeling import num_blocks
from timesformer_jax.pretrained.zoo import ZOO
from timesformer_jax.video import Limits

ROOT = Path(__file__).parent.parent
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("common", "recipes"))
CLASSES = {"k400": 400, "k600": 600, "ssv2": 174, "diving48": 48, "howto100m": 1059, "ucf101": 101, "hmdb51": 51}
CNNS = ("slowfast", "i3d")
OFFICIAL = ("k400", "k600", "ssv2", "diving48", "howto100m")


def module(file: str) -> ModuleType:
    return importlib.import_module(f"configs.{file}")


def variants(file: str) -> list[str]:
    """List everything that may follow the colon, and each change combined with another input size or scheme."""
    table = module(file).VARIANTS
    if file == "folder":
        return [*module(file).FIELDS, *(f"video_folder,{name}" for name in table), "video_list,finetune,modern"]
    return [*table, *(f"{name},modern" for name in table if "modern" in table and name not in ("modern", *CNNS))]


EVERY = [(file, variant) for file in FILES for variant in variants(file)]


def filled(file: str, variant: str) -> ConfigDict:
    """A config that derives its model from the weights, filled in for its default of base width at 8 x 224."""
    config = config_of(file, variant)
    begin = config.init_from
    config.init_from = None
    config = follow_weights(config, "/no/such/workdir", "train")
    config.init_from = begin
    return config


def model_of(config: ConfigDict, num_classes: int) -> Any:
    """The config's model."""
    return class_of(config)(num_classes=num_classes, **model_fields(config))


def optimizer_of(config: ConfigDict, depth: int, steps_per_epoch: float = 100.0) -> training.Optimizer:
    return training.make_optimizer(
        **config.optimizer, depth=depth, num_epochs=config.train.num_epochs, steps_per_epoch=steps_per_epoch
    )


def test_expected_recipes_exist():
    assert set(FILES) == {*CLASSES, "folder", "moving_digits"}
    names = "base hr large joint space_only local_global axial scratch modern tpu"
    assert set(module("k400").VARIANTS) == {*names.split(), *CNNS}
    assert all("modern" in module(file).VARIANTS for file in FILES if file != "moving_digits")


# The files' claims.


@pytest.mark.parametrize("file", FILES)
def test_every_file_states_command_accuracy_cost_and_memory(file: str):
    text = str(module(file).__doc__)
    assert f"python main.py --config=configs/{file}.py" in text
    assert "Expected accuracy" in text
    assert re.search("[Ss]ource", text)
    assert "FLOPs" in text
    assert re.search(r"memory: MiB for each clip|MiB\s+of\s+memory\s+for\s+each\s+clip", text)
    for variant in re.findall(rf"configs/{file}\.py:(\S+)", text):
        config_of(file, variant)


@pytest.mark.parametrize("file", sorted(CLASSES))
def test_table_lists_every_variant_with_its_cost(file: str):
    """The columns `a view` and `training` follow from the model and the schedule."""
    text = str(module(file).__doc__)
    videos = int(re.search(r"training of\s+([\d,]+) videos", text)[1].replace(",", ""))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == list(module(file).VARIANTS)
    for variant, *_, view, whole, memory in rows[1:]:
        config = filled(file, variant)
        model = model_of(config, CLASSES[file])
        frozen = any(factor is None for _, factor in config.optimizer.rates)
        clips = videos * config.train.num_epochs * config.clips.clips_per_video
        tested = count_multiply_adds(model, image_size=config.clips.eval_crop_size or model.image_size)
        assert int(view) == round(tested / 1e9), variant
        training_flops = (2 if frozen else 6) * count_multiply_adds(model, for_logits=True) * clips
        assert whole == f"{training_flops:.1e}".replace("+", ""), variant
        assert int(memory) > 0


# Every field is accepted.


@pytest.mark.parametrize(("file", "variant"), EVERY)
def test_every_variant_builds(file: str, variant: str):
    config = filled(file, variant)
    model = model_of(config, CLASSES.get(file, 7))
    clips = ClipOptions(num_frames=model.num_frames, crop_size=model.image_size, **config.clips)
    PixelOptions(**config.pixels)
    MixingOptions(**config.mixing)
    optimizer_of(config, num_blocks(model))
    assert config.data.get("short_side", 32) >= clips.short_side[0]  # as the jobs require
    assert config.train.batch_size % clips.clips_per_video == 0
    if config.architecture in CNNS:  # files of PySlowFast's model zoo for fine-tuning
        published = {"slowfast": "SLOWFAST_8x8_R50.pkl", "i3d": "I3D_8x8_R50.pkl"}[config.architecture]
        assert config.init_from == (None if file in ("k400", "moving_digits") else published)
        return
    assert config.init_from is None or config.init_from.startswith("hf:") or config.init_from in ZOO
    assert (config.init_from is None) == (config.model.initialization == "from_scratch")


@pytest.mark.parametrize("file", sorted(CLASSES))
def test_data_set_accepts_its_fields(file: str, tmp_path: Path):
    """Only the data are missing. (Other tests open those of `folder` and `moving_digits`.)"""
    for variant in module(file).VARIANTS:
        with pytest.raises(InputError, match=r"data\.root is not set"):
            open_dataset(**{**filled(file, variant).data, "data_dir": str(tmp_path)})


def test_configs_share_nothing():
    one, other = config_of("ssv2"), config_of("ssv2")
    one.data.root, one.init_from = "here", "other"
    assert other.data.root is None
    assert other.init_from == config_of("ssv2").init_from == recipes.IMAGENET_21K


@pytest.mark.parametrize("file", [file for file in FILES if file != "folder"])
def test_unknown_variant_error_names_the_known_ones(file: str):
    first, *_ = known = list(module(file).VARIANTS)
    with pytest.raises(InputError, match=rf"configs/{file}.py has no variant 'huge'. Known ones: {', '.join(known)};"):
        config_of(file, f"{first},huge")


def test_folder_name_starts_with_a_data_set():
    with pytest.raises(
        InputError, match=r"folder.py:NAME must be one of kinetics400, .*video_list, got 'modern'; finetune and"
    ):
        config_of("folder", "modern")
    with pytest.raises(InputError, match=r"folder.py has no variant 'ucf101'. Known ones: finetune, modern, small"):
        config_of("folder", "hmdb51,ucf101")


def test_only_the_small_model_from_random_weights_is_called_a_toy():
    assert "configs/folder.py:ucf101,finetune" in config_of("folder", "ucf101").note
    assert config_of("folder", "ucf101,finetune").note is None
    assert config_of("k400").note is None


def test_recipe_for_few_videos():
    """`small` is `finetune,small`; two dozen videos suffice for enough steps, and short videos are seen whole."""
    assert config_of("folder", "video_folder,small").to_json() == config_of("folder", "video_folder,finetune,small").to_json()
    config = filled("folder", "video_folder,small")
    assert config.train.num_epochs * 24 / config.train.batch_size >= 90
    assert config.optimizer.warmup_epochs * 24 / config.train.batch_size >= 5
    assert config.clips.sampling == "segments"
    rate = optimizer_of(config, 12, steps_per_epoch=3).learning_rate
    assert 0 < float(rate(1)) < float(rate(9)) == pytest.approx(2e-4)
    assert float(rate(90)) == pytest.approx(0, abs=1e-9)


def test_later_variant_wins():
    assert config_of("k400", "hr,large").clips.sampling_rate == 4.0
    assert config_of("k400", "large,hr").clips.sampling_rate == 16.0
    both = config_of("k400", "hr,modern")
    assert (both.model.image_size, both.optimizer.name, both.clips.short_side) == (448, "adamw", (448, 512))


# The published numbers.


@pytest.mark.parametrize("file", OFFICIAL)
def test_official_hyperparameters(file: str):
    for variant in module(file).VARIANTS.keys() - {"modern", "scratch", *CNNS}:
        config = config_of(file, variant)
        assert config.train.batch_size == 64  # over all devices and micro-batches
        steps = 1000
        rate = optimizer_of(config, 12, steps).learning_rate
        expected = {0: 5e-3, 10.9: 5e-3, 10.999: 5e-3, 11: 5e-4, 13.999: 5e-4, 14: 5e-5, 14.999: 5e-5}
        assert {epoch: float(rate(round(epoch * steps))) for epoch in expected} == pytest.approx(expected)
        assert config.train.num_epochs == 15
        optimizer = {
            field: config.optimizer[field] for field in ("name", "momentum", "weight_decay", "decay_pattern", "clip_norm")
        }
        assert list(optimizer.values()) == ["sgd", 0.9, 1e-4, ".*", 0.0]
        assert (config.pixels.mean, config.pixels.std) == ((0.45,) * 3, (0.225,) * 3)
        assert config.model.drop_path_rate == 0.1
        assert (config.eval.num_clips, config.eval.num_crops) == (1, 3)
        assert (config.train.label_smoothing, config.train.ema_decay, config.mixing.mixup) == (0, 0, 0)


@pytest.mark.parametrize(
    ("file", "variant", "frames", "size", "rate", "short_side"),
    [
        *((file, "base", 8, 224, 32, (256, 320)) for file in ("k400", "k600", "diving48")),
        *((file, "hr", 16, 448, 16, (448, 512)) for file in ("k400", "k600", "diving48")),
        *((file, "large", 96, 224, 4, (256, 320)) for file in ("k400", "k600", "diving48")),
        ("ssv2", "base", 8, 224, None, (256, 320)),
        ("ssv2", "hr", 16, 448, None, (448, 512)),
        ("ssv2", "large", 64, 224, None, (256, 320)),
        *(("howto100m", f"frames_{frames}", frames, 224, 32, (256, 320)) for frames in (8, 32, 64, 96)),
    ],
)
def test_official_inputs(file: str, variant: str, frames: int, size: int, rate: float | None, short_side: tuple[int, int]):
    config = config_of(file, variant)
    assert (config.model.num_frames, config.model.image_size, config.clips.short_side) == (frames, size, short_side)
    assert config.clips.sampling == ("segments" if rate is None else "uniform")
    assert rate in (None, config.clips.sampling_rate)
    assert config.pixels.channel_order == ("bgr" if file == "ssv2" else "rgb")
    assert config.clips.jitter == ("inverse_uniform" if file == "ssv2" else "uniform")


# Training.


class Small(NamedTuple):
    """A recipe with a model of a few thousand parameters."""

    config: ConfigDict
    model: tsf.TimeSformer


def shrink(file: str, variant: str) -> Small:
    config = filled(file, variant)
    config.model.update({"image_size": config.model.image_size // 14, "num_frames": config.model.num_frames // 4 * 2})
    config.model.update({"num_frames": min(config.model.num_frames, 8), "image_size": max(config.model.image_size, 16)})
    config.model.update({"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2})
    return Small(config, tsf.TimeSformer(num_classes=5, **config.model))


def distinct() -> list[Any]:
    """Variants whose small copies compile to different steps; RandAugment alone takes seconds to compile."""
    found: dict[str, Any] = {}
    alone = [(file, variant) for file, variant in EVERY if not variant.endswith(",modern") and variant not in CNNS]
    for file, variant in alone:
        config = shrink(file, variant).config.to_dict()
        del config["pixels"]["channel_order"], config["optimizer"]["clip_norm"], config["optimizer"]["warmup_epochs"]
        keyed = {name: config[name] for name in ("model", "pixels", "mixing")}
        keyed["train"] = (config["train"]["label_smoothing"], config["train"]["ema_decay"])
        keyed["optimizer"] = {name: value for name, value in config["optimizer"].items() if name != "learning_rate"}
        found.setdefault(json.dumps(keyed, sort_keys=True), pytest.param(file, variant, id=f"{file}:{variant}"))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("file", "variant"), distinct())
def test_small_copy_trains_two_steps(file: str, variant: str):
    config, model = shrink(file, variant)
    mesh = training.make_mesh(jax.devices()[:1])
    mixing = MixingOptions(**config.mixing)
    options = PixelOptions(**config.pixels).for_labels(["up", "down"])
    optimizer = optimizer_of(config, model.depth, steps_per_epoch=1.0)
    ema = config.train.ema_decay
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of steps and rates
        state = training.init_state(model, optimizer.transformation, config.seed, mesh, ema=ema > 0)
        before = jax.device_get(state.params)
        step = training.make_train_step(
            model=model,
            optimizer=optimizer.transformation,
            prepare=functools.partial(prepare_training, options=options),
            mix=functools.partial(mix_clips, options=mixing) if mixing.mixes else None,
            seed=config.seed,
            mesh=mesh,
            label_smoothing=config.train.label_smoothing,
            ema_decay=ema,
            trained=optimizer.trained,
        )
        for _ in range(2):
            state, metrics = step(state, training.to_devices(batch_for(model), mesh))
    assert np.isfinite(metrics["loss"])
    assert (int(state.step), int(state.skipped)) == (2, 0)
    moved = jax.tree.map(lambda old, new: bool((old != new).any()), before, jax.device_get(state.params))
    assert moved["head"]["kernel"]
    frozen = any(factor is None for _, factor in config.optimizer.rates)
    assert moved["patch_embed"]["proj"]["kernel"] is not frozen


def batch_for(model: tsf.TimeSformer) -> dict[str, np.ndarray]:
    random, size = np.random.default_rng(0), model.image_size
    assert isinstance(size, int)
    positions = np.tile(np.linspace(0, size, size, dtype=np.float32), (4, 1))
    return {
        "video": random.integers(0, 256, (4, model.num_frames, size + 2, size + 2, 3), dtype=np.uint8),
        "rows": positions,
        "columns": positions,
        "label": random.integers(0, 5, 4, dtype=np.int32),
    }


@pytest.mark.slow
def test_recipe_runs_from_videos_to_results(tmp_path: Path, data_dir: str):
    """UCF-101 cut down to three classes and a dozen videos: full training, then the classifier alone from its weights."""
    root = tmp_path / "ucf"
    names = ["Across", "Down", "Back"]
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(names):
        for seed in range(4):
            file = f"v_{name}_g{seed:02d}_c01.avi"
            write_video(root / name / file, moving_square(label, seed), codec="mjpeg")
            lists["test" if seed == 3 else "train"].append(f"{name}/{file}" + ("" if seed == 3 else f" {label + 1}"))
    (root / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, start=1)))
    for split, lines in lists.items():
        (root / f"{split}list01.txt").write_text("\n".join(lines) + "\n")
    small = {
        "data.root": str(root),
        "data.data_dir": data_dir,
        "data.short_side": 48,
        "clips.short_side": (32, 40),
        "model.image_size": 32,
        "model.embed_dim": 16,
        "model.depth": 2,
        "model.num_heads": 2,
        "train.batch_size": 8,
        "train.num_epochs": 1.0,
        "eval.batch_size": 8,
    }
    whole, head = tmp_path / "whole", tmp_path / "head"
    with jax.numpy_dtype_promotion("standard"):
        # The released weights are dropped, since there is no network.
        main.run(config_of("ucf101", init_from=None, **small), str(whole), "train")
        main.run(config_of("ucf101", "head", init_from=str(whole), **small), str(head), "train")
    for workdir in (whole, head):
        found = json.loads((workdir / "results.json").read_text())
        assert (found["split"], found["num_videos"], found["num_clips"], found["num_crops"]) == ("val", 3, 1, 3)


def test_video_limits_equal_those_of_the_library():
    assert Limits(**recipes.videos("kinetics400")["limits"]) == Limits()


@pytest.mark.parametrize("section", common.SECTIONS)
def test_section_defaults_equal_those_of_its_class(section: str):
    """Except for the listed exceptions, which must be real; no field is missing unless listed."""
    fields = {field.name: field.default for field in dataclasses.fields(common.SECTIONS[section])}
    exceptions, absent = common.EXCEPTIONS.get(section, {}), common.NOT_IN_CONFIGS.get(section, ())
    assert {*exceptions, *absent} <= fields.keys()
    assert all(fields[name] != value for name, value in exceptions.items())
    values = common.new_config()[section].to_dict()
    values.pop("span", None)  # an argument of `ClipOptions` that isn't a field
    assert values.keys() == fields.keys() - {*absent}
    unset = common.FOLLOWING.get(section, {})
    assert {name: unset.get(name, value) for name, value in values.items()} == {
        name: exceptions.get(name, fields[name]) for name in values
    }


@pytest.mark.parametrize("file", FILES)
def test_every_config_field_is_read(file: str):
    """Sections passed whole to a function or class refuse unknown fields; the others are read here by name."""
    config = config_of(file)
    source = "".join(path.read_text() for path in [ROOT / "main.py", *(ROOT / "experiment").glob("*.py")])
    for section, fields in config.items():
        if section in SECTION_OF.values():  # passed whole to the architecture's class, fields that it doesn't have excepted
            classes = [ARCHITECTURES[name] for name, where in SECTION_OF.items() if where == section]
            assert set(fields.keys()) <= {field.name for each in classes for field in dataclasses.fields(each)}
        elif f"**config.{section}" in source or not isinstance(fields, ConfigDict):
            assert f"config.{section}" in source, section
        else:
            for field in fields:
                assert re.search(rf"config\.{section}\.{field}\b|options\.{field}\b", source), f"{section}.{field}"


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"moving_digits"}))
def test_every_data_set_has_a_config(name: str, tmp_path: Path):
    """It accepts the config's fields of `data`: only the data are missing."""
    data = config_of("folder", name).data
    with pytest.raises(InputError, match=r"data\.(root|train) is not set"):
        open_dataset(**{**data, "data_dir": str(tmp_path)})
    with pytest.raises(InputError, match=r"has no field data\.nonsense"):
        open_dataset(**data, nonsense=1)
