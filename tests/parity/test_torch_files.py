"""Pickled files: all common wrappings are read, and none executes code."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import timesformer_jax as tsf
from tests.pretrained.files import OFFICIAL, golden_arrays, golden_tensors, official_file
from tests.pretrained.test_load import assert_golden
from tests.support import load_golden
from timesformer_jax.pretrained import save_mmaction2, save_official
from timesformer_jax.pretrained.save import WRITERS

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def state(attention_type: str, prefix: str = "") -> dict[str, Any]:
    tensors = golden_tensors(f"official_{attention_type}")
    return {prefix + name: torch.from_numpy(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("attention_type", OFFICIAL)
@pytest.mark.parametrize(
    ("wrapper", "prefix", "zipped"),
    [
        ("model_state", "model.", True),
        ("model_state", "model.", False),
        ("model", "model.", True),
        ("module", "model.", True),
        ("state_dict", "module.model.", True),
        (None, "model.", True),
        (None, "", True),
    ],
)
def test_official_files_are_read(attention_type: str, wrapper: str | None, prefix: str, zipped: bool, tmp_path: Path):
    tensors = state(attention_type, prefix)
    content = {"epoch": 14, wrapper: tensors, "optimizer_state": {"state": {}}, "cfg": "A: 1"} if wrapper else tensors
    torch.save(content, tmp_path / "a.pyth", _use_new_zipfile_serialization=zipped)
    format = "official" if attention_type == "space_only" and wrapper != "model_state" else None  # could be an image model's
    pretrained = tsf.load(tmp_path / "a.pyth", num_heads=3, format=format)
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, load_golden(attention_type).params())
    if prefix == "model." and zipped:
        assert_golden(pretrained, attention_type)


@pytest.mark.parametrize(
    "extra",
    [
        {"best_acc": np.float64(77.1), "epoch": np.int64(3), "seen": np.bool_(True), "lr": np.float32(0.1)},
        {"history": np.arange(3.0), "order": np.arange(4)[::-1], "names": np.array(["a", "b"]), "empty": np.zeros((0, 2))},
        {"args": argparse.Namespace(output=Path("runs"), lr=np.float32(0.1))},
        {"rng": np.random.RandomState(0).get_state()},
    ],
    ids=lambda extra: next(iter(extra)),
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_numpy_numbers_and_paths_are_accepted(extra: dict[str, Any], zipped: bool, tmp_path: Path):
    content = {"model": state("divided_space_time"), **extra}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert len(tsf.load(tmp_path / "a.pth", num_heads=3).report.loaded) == len(content["model"])


def test_numbers_pickled_by_numpy_1_are_accepted(tmp_path: Path):
    torch.save(
        {"model": state("divided_space_time"), "acc": np.float64(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False
    )
    data = (tmp_path / "a.pth").read_bytes()
    assert b"numpy._core.multiarray" in data
    (tmp_path / "b.pth").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    tsf.load(tmp_path / "b.pth", num_heads=3)


def test_pickled_numpy_objects_are_rejected(tmp_path: Path):
    torch.save({"model": state("divided_space_time"), "x": np.array([print], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(tsf.InputError, match="is not loaded, because that could run code"):
        tsf.load(tmp_path / "a.pth", num_heads=3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("norm.weight", torch.zeros(1).expand(1 << 40), r"claims to hold [\d,]+ numbers, too many for its [\d,]+ bytes"),
        ("norm.weight", torch.empty(1 << 40, device="meta"), r"claims to hold"),
        ("x" * 5000, torch.zeros(3), "with an invalid name of 5,000 characters"),
    ],
    ids=["stride 0", "without storage", "long name"],
)
def test_tensors_of_excessive_size_are_rejected(name: str, value: torch.Tensor, words: str, tmp_path: Path):
    torch.save({"model": {**state("divided_space_time"), name: value}}, tmp_path / "a.pth")
    with pytest.raises(tsf.InputError, match=words):
        tsf.load(tmp_path / "a.pth", num_heads=3)


@pytest.mark.parametrize("zipped", [True, False])
def test_byte_arrays_of_any_size_are_rejected(zipped: bool, tmp_path: Path):
    """PyTorch's allow-list includes `bytearray`, which a pickle may call with any number."""

    class Large:
        def __reduce__(self) -> tuple[type, tuple[int]]:
            return bytearray, (1 << 45,)

    content = {"model": state("divided_space_time"), "x": Large()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(tsf.InputError, match="it holds a bytearray"):
        tsf.load(tmp_path / "a.pth", num_heads=3)


@pytest.mark.parametrize("cfg", ["\n" * 10**6, "  NUM_FRAMES: many", "  NUM_FRAMES: " + "9" * 5000])
def test_implausible_configurations_are_rejected(cfg: str, tmp_path: Path):
    torch.save({"model_state": state("divided_space_time"), "cfg": cfg}, tmp_path / "a.pyth")
    if cfg.strip():
        with pytest.raises(tsf.InputError, match=r"cfg says NUM_FRAMES: '.*, expected a whole number"):
            tsf.load(tmp_path / "a.pyth", num_heads=3)
    else:
        tsf.load(tmp_path / "a.pyth", num_heads=3)


@pytest.mark.parametrize(
    ("entries", "chosen", "others"),
    [
        (("model", "model_ema"), "model", ("model_ema",)),
        (("state_dict_ema", "state_dict"), "state_dict", ("state_dict_ema",)),
        (("ema", "net"), "net", ("ema",)),
        (("model_ema",), "model_ema", ()),
        (("state.network", "state.ema.shadow"), "state.network", ("state.ema.shadow",)),
    ],
)
def test_moving_averages_in_torch_files(entries: tuple[str, ...], chosen: str, others: tuple[str, ...], tmp_path: Path):
    content: dict[str, Any] = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3}
    for number, entry in enumerate(entries):
        place = content
        *outer, last = entry.split(".")
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = {name: tensor + number for name, tensor in state("divided_space_time").items()}
    torch.save(content, tmp_path / "a.pth")
    report = tsf.load(tmp_path / "a.pth", num_heads=3).report
    assert (report.entry, report.other_entries) == (chosen, others)
    assert all(entry in str(report) for entry in others)
    scale = state("divided_space_time")["norm.weight"].numpy()
    for number, entry in enumerate(entries):
        params = tsf.load(tmp_path / "a.pth", num_heads=3, entry=entry).params
        np.testing.assert_array_equal(params["norm"]["scale"], scale + number)
    with pytest.raises(tsf.InputError, match=rf"has no entry 'modle_ema' of tensors by name, but .*{entries[0]}"):
        tsf.load(tmp_path / "a.pth", entry="modle_ema")


def test_ambiguous_entries_need_a_choice(tmp_path: Path):
    tensors = state("divided_space_time")
    torch.save({"encoder": tensors, "target_encoder": tensors}, tmp_path / "a.pth")
    with pytest.raises(tsf.InputError, match=r"several entries of tensors by name: encoder, target_encoder\. Choose one with"):
        tsf.load(tmp_path / "a.pth", num_heads=3)
    assert tsf.load(tmp_path / "a.pth", num_heads=3, entry="encoder").report.other_entries == ("target_encoder",)


def test_deit_image_model_is_read(tmp_path: Path):
    golden = golden_arrays("inflate_divided_space_time")
    vit = {name[4:]: torch.from_numpy(golden[name]) for name in golden if name.startswith("vit/")}
    torch.save({"model": vit, "args": argparse.Namespace(lr=0.1)}, tmp_path / "deit.pth")
    pretrained = tsf.load(tmp_path / "deit.pth", num_heads=3, num_frames=4, num_classes=5)
    video = jnp.asarray(golden["input_bcthw"].transpose(0, 2, 3, 4, 1))
    features = pretrained.model.apply({"params": pretrained.params}, video, method="features")
    np.testing.assert_allclose(features.cls, golden["features"], atol=1e-5)


def test_half_precision_torch_files_are_read(tmp_path: Path):
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in state("joint_space_time", "model.").items()}
    torch.save({"model_state": tensors}, tmp_path / "a.pyth")
    scale = tsf.load(tmp_path / "a.pyth", num_heads=3).params["norm"]["scale"]
    np.testing.assert_array_equal(scale, tensors["model.norm.weight"].float().numpy())


class Mmaction2Attention(nn.Module):
    """mmcv's wrapper of PyTorch's attention, here with the batch first."""

    def __init__(self, extra: bool, norm: bool):
        super().__init__()
        self.attn = nn.MultiheadAttention(24, 3, batch_first=True)
        if norm:
            self.norm = nn.LayerNorm(24, eps=1e-6)
        if extra:
            self.temporal_fc = nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x)[0]


class Mmaction2Layer(nn.Module):
    """One layer, written from the description of mmaction2's modules: time, then space, then the MLP."""

    def __init__(self, divided: bool):
        super().__init__()
        self.divided = divided
        self.attentions = nn.ModuleList([Mmaction2Attention(divided and i == 0, divided) for i in range(2 if divided else 1)])
        mlp = nn.Module()
        mlp.layers = nn.Sequential(nn.Sequential(nn.Linear(24, 96), nn.GELU()), nn.Linear(96, 24))
        self.ffns = nn.ModuleList([mlp])
        if divided:
            mlp.norm = nn.LayerNorm(24, eps=1e-6)
        else:
            self.norms = nn.ModuleList([nn.LayerNorm(24, eps=1e-6) for _ in range(2)])

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        if not self.divided:
            x = x + self.attentions[0](self.norms[0](x))
            return x + self.ffns[0].layers(self.norms[1](x))
        time, space = self.attentions
        batch, cls, patches = len(x), x[:, :1], x[:, 1:]
        places = patches.reshape(-1, frames, 24)  # patch-major: [B N, T, D]
        patches = patches + time.temporal_fc(time(time.norm(places))).reshape(batch, -1, 24)
        by_frame = patches.reshape(batch, -1, frames, 24).transpose(1, 2).reshape(batch * frames, -1, 24)
        tokens = torch.cat([cls.repeat_interleave(frames, 0), by_frame], 1)
        mixed = space(space.norm(tokens))
        cls = cls + mixed[:, :1].reshape(batch, frames, 24).mean(1, keepdim=True)
        back = mixed[:, 1:].reshape(batch, frames, -1, 24).transpose(1, 2).reshape(batch, -1, 24)
        x = torch.cat([cls, patches + back], 1)
        return x + self.ffns[0].layers(self.ffns[0].norm(x))


class Mmaction2(nn.Module):
    def __init__(self, attention_type: str, frames: int = 4):
        super().__init__()
        self.attention_type, self.frames = attention_type, frames
        self.backbone, self.cls_head = nn.Module(), nn.Module()
        backbone = self.backbone
        backbone.cls_token, backbone.pos_embed = nn.Parameter(torch.zeros(1, 1, 24)), nn.Parameter(torch.zeros(1, 17, 24))
        if attention_type != "space_only":
            backbone.time_embed = nn.Parameter(torch.zeros(1, frames, 24))
        backbone.patch_embed = nn.Module()
        backbone.patch_embed.projection = nn.Conv2d(3, 24, 4, 4)
        backbone.transformer_layers = nn.Module()
        divided = attention_type == "divided_space_time"
        backbone.transformer_layers.layers = nn.ModuleList([Mmaction2Layer(divided) for _ in range(2)])
        backbone.norm = nn.LayerNorm(24, eps=1e-6)
        self.cls_head.fc_cls = nn.Linear(24, 5)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Compute the logits of clips `[B, T, 3, H, W]`."""
        backbone, batch = self.backbone, len(video)
        x = backbone.patch_embed.projection(video.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([backbone.cls_token.expand(len(x), -1, -1), x], 1) + backbone.pos_embed
        if self.attention_type != "space_only":
            cls = x[:: self.frames, :1]
            patches = x[:, 1:].reshape(batch, self.frames, 16, 24).transpose(1, 2) + backbone.time_embed
            x = torch.cat([cls, patches.reshape(batch, -1, 24)], 1)
        for layer in backbone.transformer_layers.layers:
            x = layer(x, self.frames)
        if self.attention_type == "space_only":
            x = x.reshape(batch, self.frames, 17, 24).mean(1)
        return self.cls_head.fc_cls(backbone.norm(x)[:, 0])


@pytest.mark.parametrize("attention_type", OFFICIAL)
def test_mmaction2_round_trip(attention_type: str, tmp_path: Path):
    model = Mmaction2(attention_type).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        pixels = torch.randn((2, 4, 3, 16, 16), generator=generator)
        expected = model(pixels).numpy()
    meta = {"dataset_meta": {"classes": list("abcde")}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "a.pth")
    pretrained = tsf.load(tmp_path / "a.pth", num_heads=3)
    np.testing.assert_allclose(pretrained(pixels.numpy().transpose(0, 1, 3, 4, 2)), expected, atol=1e-5)
    assert pretrained.labels == tuple("abcde")
    assert pretrained.preprocess.mean == (0.5, 0.5, 0.5)
    save_mmaction2(pretrained, tmp_path / "b.pth")
    again = torch.load(tmp_path / "b.pth", weights_only=True)
    assert again["meta"]["dataset_meta"] == meta["dataset_meta"]
    model.load_state_dict(again["state_dict"])  # strict: exactly these keys
    with torch.no_grad():
        np.testing.assert_array_equal(model(pixels).numpy(), expected)


TARGETS = {"huggingface": "folder", "official": "a.pyth", "mmaction2": "a.pth", "timesformer_jax": "own"}


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_conversion_between_every_pair_of_formats(first: str, second: str, tmp_path: Path):
    """Conversion between any two formats is bit-exact; heads, names and preprocessing are kept."""
    preprocess = tsf.Preprocess(num_frames=4, crop_size=16, sampling="segments", channel_order="bgr", mean=(0.1, 0.2, 0.3))
    source = tsf.load(official_file(tmp_path / "s"), num_heads=3, labels=list("abcde"), preprocess=preprocess)
    one, other = tmp_path / TARGETS[first], tmp_path / f"second {TARGETS[second]}"
    WRITERS[first](source, one)
    tsf.convert(one, other, to=second)
    again = tsf.load(other)
    assert again.model == source.model
    jax.tree.map(np.testing.assert_array_equal, again.params, source.params)
    assert (again.labels, again.preprocess) == (source.labels, source.preprocess)


def test_written_file_has_the_entries_of_the_official_code(tmp_path: Path):
    save_official(tsf.load(official_file(tmp_path / "s"), num_heads=3), tmp_path / "a.pyth")
    content = torch.load(tmp_path / "a.pyth", weights_only=True)
    assert content["model_state"].keys() == {f"model.{name}" for name in golden_tensors("official_divided_space_time")}
    assert content["timesformer_jax"]["model"]["num_heads"] == 3


class Evil:
    def __reduce__(self):
        return (__import__("os").system, ("echo owned > owned.txt",))


@pytest.mark.parametrize("form", ["plain", "torch", "legacy"])
def test_code_in_a_pickle_is_rejected(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    content = {"model_state": state("space_only"), "surprise": Evil()}
    if form == "plain":
        (tmp_path / "a.pyth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "a.pyth", _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(tsf.InputError, match=r"is not loaded, because that could run code") as caught:
        tsf.load(tmp_path / "a.pyth", num_heads=3)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned.txt").exists()


def test_torchscript_is_rejected(tmp_path: Path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(tsf.InputError, match=r"TorchScript program, which is code"):
        tsf.load(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_torch_files_are_rejected(share: float, zipped: bool, tmp_path: Path):
    torch.save({"model_state": state("space_only")}, tmp_path / "a.pyth", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "a.pyth").read_bytes()
    (tmp_path / "b.pyth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(tsf.InputError, match=r"broken or truncated PyTorch") as caught:
        tsf.load(tmp_path / "b.pyth", num_heads=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model_state": {"epoch": 3}}, torch.zeros(3)])
def test_files_without_named_tensors_are_rejected(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "a.pyth")
    with pytest.raises(tsf.InputError, match=r"holds no tensors by name"):
        tsf.load(tmp_path / "a.pyth")


@pytest.mark.parametrize("name", ["a.pyth", "a.pth"])
def test_flipped_bit_in_a_written_file_is_detected(name: str, tmp_path: Path):
    """PyTorch writes CRCs but doesn't verify them."""
    model = tsf.create("timesformer-tiny", num_classes=2)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]
    pretrained = tsf.Pretrained(model, params, tsf.Preprocess(num_frames=4, crop_size=32), labels=("yes", "no"))
    writer = save_official if name == "a.pyth" else save_mmaction2
    writer(pretrained, tmp_path / name)
    assert tsf.load(tmp_path / name).labels == ("yes", "no")
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / name).write_bytes(content)
    with pytest.raises(tsf.InputError, match="differs from its CRC"):
        tsf.load(tmp_path / name)
