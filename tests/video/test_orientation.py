"""Mirroring and rotation of frames that are images with EXIF data."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from timesformer_jax.video import open_video
from timesformer_jax.video.orientation import exif_orientation

ORIENTATION = 0x0112
QUARTERS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8).repeat(16, 0).repeat(32, 1)


def picture(format: str, orientation: int) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(QUARTERS).save(file, format, exif=exif, **({"quality": 95} if format == "jpeg" else {}))
    return file.getvalue()


def upright(image: bytes) -> np.ndarray:
    turned: Any = ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
    return np.asarray(turned.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_images_with_exif_orientation_are_upright(tmp_path: Path, format: str, orientation: int):
    image = picture(format, orientation)
    (tmp_path / f"1.{format}").write_bytes(image)
    with open_video(tmp_path) as video:
        (frame,) = video.frames()
    expected = upright(image)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_motion_jpeg_with_exif_orientation_is_upright(tmp_path: Path, orientation: int):
    image = picture("jpeg", orientation)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *QUARTERS.shape[:2], "yuvj420p"
        for place in range(3):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, place, place, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    expected = upright(image)
    with open_video(tmp_path / "a.avi") as video:
        frames = list(video.frames())
    assert [frame.shape for frame in frames] == 3 * [expected.shape]
    assert np.abs(np.stack(frames).astype(int) - expected).mean() < 5


def test_exif_orientation_is_read_in_both_byte_orders():
    big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x05\0\0\0\0\0\0"
    little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x05\0\0\0\0\0\0\0"
    for tiff in (big, little):
        segment = b"Exif\0\0" + tiff
        image = b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + picture("jpeg", 1)[2:]
        assert exif_orientation(image) == 5


def test_damaged_exif_data_count_as_upright():
    for format in ("jpeg", "png"):
        image = picture(format, 6)
        assert exif_orientation(image) == 6
        for size in range(80):
            assert exif_orientation(image[:size]) in (1, 6)
    assert exif_orientation(b"neither") == 1
    assert exif_orientation(picture("jpeg", 6).replace(b"MM\0*", b"XX\0*").replace(b"II*\0", b"XX*\0")) == 1
