"""Sizes of the experiments: for a laptop, for a test, and with the paper's own recipes."""

from collections.abc import Mapping

from benchmarks.miniature.experiments import CLIPS_ROW, IMAGE_MODEL, IMAGE_ROW, Changes, Claim, Row, Size

DIGITS = {"spatial": "configs/moving_digits.py:clutter", "temporal": "configs/moving_digits.py:shaky"}
DIGIT_WORDS = {"spatial": "which sign", "temporal": "which motion"}
ABOUT_DIGITS = (
    "The two tasks are to name a sign, a digit and its colour among fragments of other digits (20 classes), and to name the "
    "motion of a digit (8 classes). Any single frame shows the sign. A motion and its reversal consist of the same frames in "
    "opposite order, so a model that ignores order is right at most half of the time. In half of the clips the digit shakes "
    "along its axis, so that its direction shows only in several frames together and often can only be guessed, which leaves "
    "about 89 % that can be right. The tasks correspond to the paper's K400, which depends on appearance, and SSv2, which "
    "depends on order. The paper's models start from ImageNet weights. These start from scratch unless noted, and after so few "
    "steps, a figure also reflects how fast a model learns."
)
LOG_LITTLE = {"train.log_every_steps": 50, "train.evaluate_every_epochs": 1000.0, "train.checkpoint_every_epochs": 1000.0}
EPOCHS = {"train.num_epochs": 4.0, "optimizer.warmup_epochs": 0.25}
"""800 steps with 50 warm-up steps."""
QUICK_EPOCHS = {"train.num_epochs": 2.0, "optimizer.warmup_epochs": 0.5}
"""20 steps with 5 warm-up steps, of any share of the videos, so that one program serves all shares."""

FRAMES: Mapping[str, Changes] = {
    "2": {"model.num_frames": 2, "data.num_frames": 2},
    "4": {"model.num_frames": 4, "data.num_frames": 4},
    "8": {},
}
FRAMES_NOTE = "The frames are consecutive, from the middle of the video."
CROPS: Mapping[str, Changes] = {
    "16": {"model.image_size": 16, "clips.short_side": (16, 16)},
    "24": {"model.image_size": 24, "clips.short_side": (24, 24)},
    "32": {},
}
FROM_IMAGES_ROW = "image model, from_images"
FROM_IMAGES: Mapping[str, Row] = {
    "scratch": Row({}, {"spatial": 64.8}),
    IMAGE_ROW: Row({"init_from": IMAGE_MODEL, "model.initialization": "official"}, {"spatial": 78.0}),
    FROM_IMAGES_ROW: Row(
        {
            "init_from": IMAGE_MODEL,
            "model.initialization": "from_images",
            "optimizer.rates": (("time_embed", 10.0), (".*", 1.0)),
        }
    ),
}
FROM_IMAGES_CLAIMS = (
    Claim("temporal", FROM_IMAGES_ROW, IMAGE_ROW),
    Claim("temporal", FROM_IMAGES_ROW, "scratch"),
    Claim("spatial", FROM_IMAGES_ROW, "scratch"),
)
OTHERS: Mapping[str, Changes] = {"slowfast": {"variant": "slowfast", "cnn.width": 8}, "i3d": {"variant": "i3d"}}
"""About as many parameters as the TimeSformer."""
IMAGES: Changes = {
    "data.label": "digit",
    "model.attention_type": "space_only",
    "model.num_frames": 1,
    "clips.placement": "centre",
}
HALF_A_VIDEO: Changes = {"model.num_frames": 4, "clips.placement": "centre", "eval.num_clips": 5}

SIZES: dict[str, Size] = {
    "miniature": Size(
        configs=DIGITS,
        words=DIGIT_WORDS,
        about=ABOUT_DIGITS,
        common={
            "data.train_clips": 3200,
            "train.batch_size": 16,
            **EPOCHS,
            **LOG_LITTLE,
        },
        seeds=tuple(range(8)),
        fewer_seeds=5,
        in_memory=True,
        others=OTHERS,
        # Images are cheap, so there are four times as many, for the same number of epochs.
        image_model={**IMAGES, "data.train_clips": 12_800},
        pretraining=FROM_IMAGES,
        pretraining_claims=FROM_IMAGES_CLAIMS,
        frames=FRAMES,
        frames_note=FRAMES_NOTE,
        crops=CROPS,
        clips=HALF_A_VIDEO,
        clip_counts=(1, 2, 3, 4, 5),
        epochs=EPOCHS,
        cost_model="timesformer-base",
        cost_frames=(8, 16, 32, 64, 96),
        cost_sizes=(224, 336, 448, 560),
        fixed_in="commit 1186e50",
    ),
    # The main kinds of runs, each too short to learn much.
    "quick": Size(
        configs=DIGITS,
        words=DIGIT_WORDS,
        about=f"{ABOUT_DIGITS} Every training here is too short to learn much: this page shows that the main kinds of "
        "runs work, and its findings mean nothing.",
        common={
            "data.train_clips": 160,
            "data.val_clips": 100,
            "train.batch_size": 16,
            **QUICK_EPOCHS,
            **LOG_LITTLE,
        },
        seeds=(0, 1),
        fewer_seeds=1,
        in_memory=True,
        others=OTHERS,
        image_model={**IMAGES, "train.num_epochs": 4.0},
        pretraining=FROM_IMAGES,
        pretraining_claims=FROM_IMAGES_CLAIMS,
        frames=FRAMES,
        frames_note=FRAMES_NOTE,
        crops=CROPS,
        clips=HALF_A_VIDEO,
        clip_counts=(1, 2, 3, 4, 5),
        epochs=QUICK_EPOCHS,
        cost_model="timesformer-base",
        cost_frames=(8, 32),
        cost_sizes=(224, 448),
        only={
            "schemes": ("space_only", "divided_space_time", "i3d"),
            "data_share": ("TimeSformer 25", "TimeSformer 100", "i3d 25", "i3d 100"),
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
        fewer_seeds=1,
        in_memory=False,
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
