"""Sizes of the experiments: for a laptop, for a test, and with the paper's own recipes."""

from collections.abc import Mapping

from benchmarks.miniature.experiments import CLIPS_ROW, IMAGE_MODEL, Changes, Row, Size

DIGITS = {"spatial": "configs/moving_digits.py:digit", "temporal": "configs/moving_digits.py:motion"}
DIGIT_WORDS = {"spatial": "which digit", "temporal": "which motion"}
ABOUT_DIGITS = (
    "The two tasks are to name the digit and to name its motion, one of eight. Any single frame shows the digit, while a "
    "motion and its reversal consist of the same frames in opposite order, so a model that ignores order is right half of the "
    "time. They correspond to the paper's K400, which depends on appearance, and SSv2, which depends on order. The paper's "
    "models start from ImageNet weights. These start from scratch unless noted, and after so few steps, a figure also reflects "
    "how fast a model learns."
)
LOG_LITTLE = {"train.log_every_steps": 50, "train.evaluate_every_epochs": 1000.0, "train.checkpoint_every_epochs": 1000.0}
EPOCHS = {"train.num_epochs": 2.5, "optimizer.warmup_epochs": 0.25}
"""500 steps with 50 warm-up steps. With 27, divided attention names digits ten points less accurately."""

FRAMES: Mapping[str, Changes] = {
    "2": {"model.num_frames": 2, "data.num_frames": 2},
    "4": {"model.num_frames": 4, "data.num_frames": 4},
    "8": {},
}
FRAMES_NOTE = (
    "The frames are consecutive, from the middle of the video. In others, the position of the digit would reveal the direction "
    "of its motion even to a model that ignores their order."
)
CROPS: Mapping[str, Changes] = {
    "16": {"model.image_size": 16, "clips.short_side": (16, 16)},
    "24": {"model.image_size": 24, "clips.short_side": (24, 24)},
    "32": {},
}
FROM_IMAGES: Mapping[str, Row] = {
    "scratch": Row({}, {"spatial": 64.8}),
    "image model": Row({"init_from": IMAGE_MODEL, "model.initialization": "official"}, {"spatial": 78.0}),
}
ONE_FRAME: Changes = {"model.attention_type": "space_only", "model.num_frames": 1, "clips.placement": "centre"}
HALF_A_VIDEO: Changes = {"model.num_frames": 4, "clips.placement": "centre", "eval.num_clips": 5}

SIZES: dict[str, Size] = {
    "miniature": Size(
        configs=DIGITS,
        words=DIGIT_WORDS,
        about=ABOUT_DIGITS,
        common={
            "data.train_clips": 3200,
            "model.depth": 2,
            "train.batch_size": 16,
            **EPOCHS,
            **LOG_LITTLE,
        },
        seeds=(0, 1, 2),
        cpu_devices=2,
        # Images are cheap, so there are four times as many, for the same number of epochs.
        image_model={**ONE_FRAME, "data.train_clips": 12_800},
        pretraining=FROM_IMAGES,
        frames=FRAMES,
        frames_note=FRAMES_NOTE,
        crops=CROPS,
        clips=HALF_A_VIDEO,
        clip_counts=(1, 2, 3, 4, 5),
        epochs=EPOCHS,
        cost_model="timesformer-base",
        cost_frames=(8, 16, 32, 64, 96),
        cost_sizes=(224, 336, 448, 560),
    ),
    # The main kinds of runs, each too short to learn much.
    "quick": Size(
        configs=DIGITS,
        words=DIGIT_WORDS,
        about=f"{ABOUT_DIGITS} Every training here is too short to learn much: this page shows that the main kinds of "
        "runs work, and its findings mean nothing.",
        common={
            "data.train_clips": 320,
            "data.val_clips": 100,
            "model.embed_dim": 32,
            "model.depth": 1,
            "train.batch_size": 16,
            "train.num_epochs": 2.0,
            **LOG_LITTLE,
        },
        seeds=(0,),
        cpu_devices=2,
        image_model={**ONE_FRAME, "train.num_epochs": 4.0},
        pretraining=FROM_IMAGES,
        frames=FRAMES,
        frames_note=FRAMES_NOTE,
        crops=CROPS,
        clips=HALF_A_VIDEO,
        clip_counts=(1, 2, 3, 4, 5),
        epochs={"train.num_epochs": 2.0},
        cost_model="timesformer-base",
        cost_frames=(8, 32),
        cost_sizes=(224, 448),
        only={
            "schemes": ("space_only", "divided_space_time"),
            "frames": ("2", "8"),
            "pretraining": tuple(FROM_IMAGES),
            "clips": (CLIPS_ROW,),
        },
    ),
    # The paper's own data sets and recipes, which start from an image model.
    "full": Size(
        configs={"spatial": "configs/k400.py", "temporal": "configs/ssv2.py"},
        words={"spatial": "Kinetics-400", "temporal": "Something-Something v2"},
        about="Kinetics-400 depends on appearance, Something-Something v2 on the order of frames.",
        common={},
        seeds=(0,),
        image_model=None,
        pretraining={
            "scratch": Row({"config": "configs/k400.py:scratch"}, {"spatial": 64.8}),
            "image model": Row({}, {"spatial": 78.0}),
        },
        pretraining_tasks=("spatial",),
        frames={
            "8": {},
            "16": {"model.num_frames": 16, "clips.sampling_rate": 16.0, "model.remat": "full"},
            "32": {"model.num_frames": 32, "clips.sampling_rate": 8.0, "model.remat": "full"},
            "96": {"model.num_frames": 96, "clips.sampling_rate": 4.0, "model.remat": "full"},
        },
        crops={
            "224": {},
            "336": {"model.image_size": 336, "clips.short_side": (336, 384), "data.short_side": 336, "model.remat": "full"},
            "448": {"model.image_size": 448, "clips.short_side": (448, 512), "data.short_side": 448, "model.remat": "full"},
        },
        clips={"eval.num_clips": 10, "eval.num_crops": 1},
        clip_counts=(1, 3, 5, 10),
        epochs={},
        cost_model="timesformer-base",
        cost_frames=(8, 16, 32, 64, 96),
        cost_sizes=(224, 336, 448, 560),
    ),
}
