"""Something-Something v2: hands that manipulate objects; the order of the frames matters.

    python main.py --config=configs/ssv2.py --config.data.root=FOLDER --workdir=runs/ssv2
    python main.py --config=configs/ssv2.py:hr --config.data.root=FOLDER --workdir=runs/ssv2_hr

For lists, initial weights and batches, see configs/k400.py. A clip takes one frame from each of several equal segments of the
whole video. Clips are not mirrored, since labels mention left and right.

Expected accuracy (top-1, %, one clip, three crops), with its source; cost: 10^9 multiply-adds per view, FLOPs of the whole
training of 170,000 videos; memory: MiB for each clip of a device's batch in float32 (counted as described in
configs/recipes.py):

| variant    | accuracy | source                                       | a view | training | memory |
|------------|----------|----------------------------------------------|--------|----------|--------|
| base       | 59.5     | paper, Table 3; released 59.1                |    196 |  2.8e18  |   2324 |
| hr         | 62.5     | paper, Table 3; released 61.8                |   1703 |  2.5e19  |   3962 |
| large      | 62.3     | paper, Table 3 (96 frames); released 62.0    |   1579 |  2.3e19  |   3032 |
| joint      | 58.5     | paper, Table 1                               |    180 |  2.5e18  |   4236 |
| space_only | 36.6     | paper, Table 1                               |    141 |  2.0e18  |   1849 |
| modern     | unknown  | not measured                                 |    196 |  1.1e19  |   2355 |
| tpu        | as base  | the same model                               |    196 |  2.8e18  |    326 |
| slowfast   | 63.0     | PySlowFast's model zoo (one view of 256 px)  |    131 |  2.3e18  |   3174 |
| i3d        | unknown  | not measured                                 |     37 |  6.4e17  |    827 |

Chip that each variant fits with `tpu` added (`:hr,tpu`), estimated as in configs/k400.py, whose models are the same: `base` and
`hr` a v5e chip, `joint`, `space_only` and `modern` one L4, and `large` one L4 (5.0 GiB for 2 clips at a time).

`slowfast` (64 frames) and `i3d` are fine-tuned from PySlowFast's weights for Kinetics-400, SLOWFAST_8x8_R50.pkl and
I3D_8x8_R50.pkl of its model zoo, which `--config.init_from=FILE` names, and evaluated on one view of 256 px.

For `local_global` and `axial` (paper, Table 1: 56.3 and 56.2), set `--config.model.attention_type`. `large` has 64 frames, like
the released model and its configuration; the paper says 96.
"""

from ml_collections import ConfigDict

from configs.recipes import HR, I3D, MODERN, OFFICIAL, SLOWFAST, TPU, Table, merge, recipe, videos

SOMETHING: Table = {
    "clips": {"sampling": "segments", "jitter": "inverse_uniform"},
    # The official code reads frames with OpenCV and keeps its BGR order, since it ignores REVERSE_INPUT_CHANNEL of the
    # configurations for this model. The published models were trained and evaluated that way, the released weights expect it,
    # and models trained here store it. Image weights were trained on RGB, so set "rgb" for new models, as `modern` does.
    "pixels": {"channel_order": "bgr"},
}

CONVOLUTIONAL: Table = {
    "pixels": {"channel_order": "rgb"},  # as in Kinetics
    "train": {"batch_size": 16, "num_epochs": 22.0},
    "optimizer": {
        "learning_rate": 0.03,  # for 16 clips
        "schedule": "steps",
        "steps": ((0, 1.0), (14, 0.1), (18, 0.01)),
        "warmup_epochs": 0.19,
        "weight_decay": 1e-6,
    },
    "eval": {"num_clips": 1, "num_crops": 1},
}
"""Fine-tuning from Kinetics-400. Source: PySlowFast, `configs/SSv2/SLOWFAST_16x8_R50.yaml`."""

VARIANTS: dict[str, Table] = {
    "base": {},
    "hr": HR,
    "large": {"model": {"num_frames": 64, "remat": "full"}},
    "joint": {"model": {"attention_type": "joint_space_time"}},
    "space_only": {"model": {"attention_type": "space_only"}},
    "modern": merge(MODERN, {"pixels": {"channel_order": "rgb"}}),
    "tpu": TPU,
    # The paper's other systems.
    "slowfast": merge(SLOWFAST, CONVOLUTIONAL, {"cnn": {"num_frames": 64}, "init_from": "SLOWFAST_8x8_R50.pkl"}),
    "i3d": merge(I3D, CONVOLUTIONAL, {"init_from": "I3D_8x8_R50.pkl"}),
}
"""Maps a variant to its changes of the official recipe. Names can be combined with commas; later ones take precedence."""


def get_config(variant: str = "base") -> ConfigDict:
    """Make the config; `variant` is one or more keys of `VARIANTS`, separated by commas."""
    return recipe("ssv2", VARIANTS, variant, OFFICIAL, SOMETHING, {"data": videos("something_something_v2")})
