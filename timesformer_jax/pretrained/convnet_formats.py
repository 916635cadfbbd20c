"""Published weight formats of I3D and SlowFast: the names of their tensors, and our variables."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from timesformer_jax.cnn3d import STAGES
from timesformer_jax.pretrained.weight_rows import LINEAR, SAME, Layout, Row, affine, rows

CONVOLUTION_3D = Layout((5,), lambda x, num_heads: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2))
"""`[out, in, frames, rows, columns]` <-> `[frames, rows, columns, in, out]`."""

STATISTICS = ("mean", "var")
"""Last components of the paths of BatchNorm's statistics; all other paths are parameters."""


class ConvnetFormat(NamedTuple):
    """A format of weight files of I3D and SlowFast."""

    title: str
    """Title for reports and errors."""
    rows: tuple[Row, ...]
    """One row per tensor; `{i}` stands for the number of the block."""
    block: str
    """Pattern whose only group is the number of the block in a tensor's name."""
    ignored: str
    """Pattern of whole names that aren't part of the model."""

    def template(self, name: str) -> tuple[str, str]:
        """Replace the number of the block in a name with `{i}`; return the result and the number ("" if there is none)."""
        match = re.search(self.block, name)
        return (name, "") if match is None else (name[: match.start(1)] + "{i}" + name[match.end(1) :], match[1])


def _conv_norm(conv: str, norm: str, ours: str) -> Iterator[Row]:
    """Yield the rows of a convolution and its BatchNorm by PyTorch's names."""
    yield Row(f"{conv}.weight", f"{ours}/conv/kernel", CONVOLUTION_3D)
    for theirs, name in zip(("weight", "bias", "running_mean", "running_var"), ("scale", "bias", *STATISTICS), strict=True):
        yield Row(f"{norm}.{theirs}", f"{ours}/bn/{name}")


def _caffe2_conv_norm(conv: str, norm: str, ours: str) -> Iterator[Row]:
    yield Row(f"{conv}_w", f"{ours}/conv/kernel", CONVOLUTION_3D)
    for theirs, name in zip(("s", "b", "rm", "riv"), ("scale", "bias", *STATISTICS), strict=True):  # riv is the variance
        yield Row(f"{norm}_{theirs}", f"{ours}/bn/{name}")


def _pyslowfast() -> Iterator[Row]:
    for pathway in (0, 1):
        yield from _conv_norm(f"s1.pathway{pathway}_stem.conv", f"s1.pathway{pathway}_stem.bn", f"pathway{pathway}/stem")
        for number, stage in enumerate(STAGES, start=2):
            theirs, ours = f"s{number}.pathway{pathway}_res{{i}}", f"pathway{pathway}/{stage}_{{i}}"
            yield from _conv_norm(f"{theirs}.branch1", f"{theirs}.branch1_bn", f"{ours}/shortcut")
            for name in "abc":
                yield from _conv_norm(f"{theirs}.branch2.{name}", f"{theirs}.branch2.{name}_bn", f"{ours}/{name}")
    for number, place in enumerate(("stem", *list(STAGES)[:3]), start=1):
        yield from _conv_norm(f"s{number}_fuse.conv_f2s", f"s{number}_fuse.bn", f"fuse_{place}")
    yield from affine("head.projection", "head")


def _caffe2() -> Iterator[Row]:
    for pathway, start in enumerate(("", "t_")):
        yield from _caffe2_conv_norm(f"{start}conv1", f"{start}res_conv1_bn", f"pathway{pathway}/stem")
        for stage in STAGES:
            theirs, ours = f"{start}{stage}_{{i}}", f"pathway{pathway}/{stage}_{{i}}"
            yield from _caffe2_conv_norm(f"{theirs}_branch1", f"{theirs}_branch1_bn", f"{ours}/shortcut")
            for name in "abc":
                yield from _caffe2_conv_norm(f"{theirs}_branch2{name}", f"{theirs}_branch2{name}_bn", f"{ours}/{name}")
    yield from _caffe2_conv_norm("t_pool1_subsample", "t_pool1_subsample_bn", "fuse_stem")
    for stage in list(STAGES)[:3]:  # named after the stage's last block
        theirs = f"t_{stage}_{{i}}_branch2c_bn_subsample"
        yield from _caffe2_conv_norm(theirs, f"{theirs}_bn", f"fuse_{stage}")
    yield Row("pred_w", "head/kernel", LINEAR)
    yield Row("pred_b", "head/bias", SAME)


def _pytorchvideo() -> Iterator[Row]:
    # A model of several pathways has all stages in consecutive blocks; I3D has a pooling layer as block 2.
    numbers = {True: (1, 2, 3, 4), False: (1, 3, 4, 5)}
    for pathway, several in ((0, True), (1, True), (0, False)):
        inside = f".multipathway_blocks.{pathway}" if several else ""
        yield from _conv_norm(f"blocks.0{inside}.conv", f"blocks.0{inside}.norm", f"pathway{pathway}/stem")
        for number, stage in zip(numbers[several], STAGES, strict=True):
            theirs, ours = f"blocks.{number}{inside}.res_blocks.{{i}}", f"pathway{pathway}/{stage}_{{i}}"
            yield from _conv_norm(f"{theirs}.branch1_conv", f"{theirs}.branch1_norm", f"{ours}/shortcut")
            for name in "abc":
                yield from _conv_norm(f"{theirs}.branch2.conv_{name}", f"{theirs}.branch2.norm_{name}", f"{ours}/{name}")
    for number, place in enumerate(("stem", *list(STAGES)[:3])):
        theirs = f"blocks.{number}.multipathway_fusion"
        yield from _conv_norm(f"{theirs}.conv_fast_to_slow", f"{theirs}.norm", f"fuse_{place}")
    yield from affine("blocks.6.proj", "head")


COUNTER = "num_batches_tracked"
"""Last component of the name of PyTorch's counter of BatchNorm's updates, which no output depends on."""

CONVNET_FORMATS: dict[str, ConvnetFormat] = {
    "pyslowfast": ConvnetFormat("a PySlowFast model", rows(_pyslowfast()), r"_res(\d+)\.", rf".*\.{COUNTER}"),
    "caffe2": ConvnetFormat(
        "a Caffe2 model of PySlowFast's model zoo", rows(_caffe2()), r"res\d_(\d+)_", r"momentum|lr|model_iter|.*_momentum"
    ),
    "pytorchvideo": ConvnetFormat("a pytorchvideo model", rows(_pytorchvideo()), r"res_blocks\.(\d+)\.", rf".*\.{COUNTER}"),
}
"""Maps names to formats of I3D and SlowFast. The format of a file is detected from its tensor names."""
