"""I3D and SlowFast beside pytorchvideo's models, with random weights and statistics, at 224 px and fully convolutional."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import timesformer_jax as tsf
from timesformer_jax.cnn3d.models import slow_frames
from timesformer_jax.pretrained import save_pyslowfast

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

I3D_KERNELS = (((3, 1, 1),), ((3, 1, 1), (1, 1, 1)), ((3, 1, 1), (1, 1, 1)), ((1, 1, 1), (3, 1, 1)))


def peer(name: str) -> Any:
    """pytorchvideo's model with random weights and statistics, in evaluation."""
    from pytorchvideo.models.head import create_res_basic_head
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.slowfast import create_slowfast

    torch.manual_seed(0)
    head: dict[str, Any] = {"head_activation": torch.nn.Softmax}
    if name == "slowfast":
        made = create_slowfast(model_num_class=11, head=create_res_basic_head, **head)
    else:
        kernels = tuple(
            tuple(kernels[i % len(kernels)] for i in range(depth))
            for kernels, depth in zip(I3D_KERNELS, (3, 4, 6, 3), strict=True)
        )
        made = create_resnet(
            model_num_class=11,
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=torch.nn.MaxPool3d,
            stage_conv_a_kernel_size=kernels,
            **head,
        )
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    torch.nn.init.normal_(made.blocks[6].proj.weight, 0.0, 0.2)
    return made.eval()


@pytest.mark.parametrize(("name", "frames"), [("i3d", 8), ("slowfast", 32)])
def test_convnets_match_pytorchvideo(name: str, frames: int, tmp_path: Path):
    theirs = peer(name)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    pretrained = tsf.load(tmp_path / "a.pth")
    assert type(pretrained.model).__name__.lower() == name
    for size in (224, 256):
        video = np.random.default_rng(size).normal(size=(1, frames, size, size, 3)).astype(np.float32)
        channels_first = torch.from_numpy(video.transpose(0, 4, 1, 2, 3).copy())
        slow = channels_first[:, :, torch.from_numpy(slow_frames(frames, 4))]
        with torch.no_grad():
            expected = theirs([slow, channels_first] if name == "slowfast" else channels_first).numpy()
        found = jax.nn.softmax(pretrained(video), axis=-1)
        assert expected.max() < 0.999
        assert np.ptp(expected) > 0.05
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["i3d", "slowfast"])
def test_pyth_files_are_read_back_bit_equal(name: str, tmp_path: Path):
    torch.save(peer(name).state_dict(), tmp_path / "a.pth")
    pretrained = tsf.load(tmp_path / "a.pth")
    save_pyslowfast(pretrained, tmp_path / "b.pyth")
    again = tsf.load(tmp_path / "b.pyth")
    assert again.model == pretrained.model
    for ours, theirs in ((again.params, pretrained.params), (again.batch_stats, pretrained.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    state = torch.load(tmp_path / "b.pyth", weights_only=True)["model_state"]
    assert sum(tensor.numel() for key, tensor in state.items() if "running" not in key and "tracked" not in key) == sum(
        leaf.size for leaf in jax.tree.leaves(pretrained.params)
    )
    assert state["s2.pathway0_res0.branch2.a.weight"].shape[:2] == (64, 80 if name == "slowfast" else 64)
    assert jnp.isfinite(pretrained.variables["batch_stats"]["pathway0"]["stem"]["bn"]["var"]).all()
