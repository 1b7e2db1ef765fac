"""Every kind of file a camera, a scanner or a web page leaves becomes the RGB it shows, or says why not."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gentle_core.api import DataError
from gentle_core.data.features import content_key
from gentle_vision_language.decode import BadImage, in_threads, open_image, problem
from gentle_vision_language.items import Caption, ImageFile


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, pixels: bytes, bits: int = 8) -> bytes:
    """A PNG of width × height grey pixels, which come packed."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""
    return png(width, height, zlib.compress(b"\0" * 64))


def one_colour(data: bytes) -> tuple[int, ...]:
    return tuple(np.asarray(open_image(data))[2, 2].tolist())


def test_grey_and_sixteen_bits_keep_their_brightness():
    assert one_colour(encoded(Image.new("L", (4, 4), 200))) == (200, 200, 200)
    grey = Image.fromarray(np.full((4, 4), 200 * 256 + 77, dtype=np.uint16))
    assert one_colour(encoded(grey)) == (200, 200, 200)  # Pillow's own conversion gives 255
    assert one_colour(encoded(grey, "TIFF")) == (200, 200, 200)


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert one_colour(encoded(clear)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert one_colour(encoded(half))[0] == pytest.approx(127, abs=1)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 90, 80, 70])
    assert one_colour(encoded(palette)) == (90, 80, 70)
    assert one_colour(encoded(palette, transparency=1)) == (255, 255, 255)
    assert one_colour(encoded(Image.new("LA", (4, 4), (9, 0)))) == (255, 255, 255)


def test_cmyk_jpeg():
    picture = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    red, green, blue = one_colour(picture)
    assert red < 10 and green > 240 and blue > 240
    assert open_image(picture, near=(2, 2)).mode == "RGB"


def test_orientation_is_applied(picture):
    upright = picture(3, 40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
    turned = encoded(upright.rotate(90, expand=True), "JPEG", quality=95, exif=exif)
    found = open_image(turned)
    assert found.size == (40, 20)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(upright).astype(int)).mean() < 4


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert one_colour(data) == (255, 0, 0)


def test_draft_keeps_twice_what_is_wanted_and_looks_the_same(picture):
    data = encoded(picture(1, 640, 480), "JPEG", quality=95)
    small = open_image(data, near=(60, 60))
    assert small.size == (160, 120)
    whole = open_image(data).resize((160, 120), Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole).astype(int)).mean() < 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "no image that Pillow can read"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "cannot be decoded|no image"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((4, 4), 1 << 20, dtype=np.int32)), "TIFF"), "16-bit images go from 0"),
        (bomb(20_000, 10_000), "pixels"),
        (bomb(12_000, 9_000), "has 12000 × 9000 pixels; the limit is 100000000"),
    ],
)
def test_what_cannot_be_used_says_why(data, says):
    with pytest.raises(BadImage, match=says):
        open_image(data)


def test_cut_short_jpeg(picture, tmp_path):
    data = encoded(picture(0, 200, 200), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        open_image(data[: len(data) // 2])
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    assert "truncated" in problem(ImageFile(str(path)))
    assert problem(ImageFile(str(path)), decode=False) == ""  # the header alone says nothing


def test_problem(picture, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (1, 1)).save(path)
    assert problem(ImageFile(str(path)), min_side=8) == (
        "has 1 × 1 pixels; the shorter side must have 8 or more (min_side)"
    )
    assert problem(ImageFile(str(path))) == ""
    assert problem(ImageFile(str(tmp_path / "none.png"))) == "No such file or directory"
    picture().save(path)
    assert problem(ImageFile(str(path)), max_pixels=100).startswith("has 48 × 36 pixels")


def test_a_stretch_of_a_file_is_the_same_item(picture, tmp_path):
    data = encoded(picture(), "JPEG")
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "shard.tar").write_bytes(b"x" * 512 + data + b"y" * 100)
    whole, part = ImageFile(str(tmp_path / "whole.jpg")), ImageFile(str(tmp_path / "shard.tar"), 512, len(data))
    assert part.content() == data
    assert content_key(whole) == content_key(part) == content_key(data)
    assert pickle.loads(pickle.dumps(part)) == part
    (tmp_path / "whole.jpg").unlink()
    with pytest.raises(DataError, match="whole.jpg: No such file"):
        whole.content()


def test_arrays_and_strangers():
    array = np.full((3, 5, 3), 7, dtype=np.uint8)
    assert open_image(array).size == (5, 3)
    assert open_image(array[..., 0]).mode == "RGB"
    with pytest.raises(BadImage, match=r"float64 \(3, 5, 3\)"):
        open_image(array / 2)
    with pytest.raises(BadImage, match="not str"):
        open_image("a.jpg")


def test_threads_keep_order():
    assert in_threads(lambda x: x * x, range(50)) == [x * x for x in range(50)]


def test_caption_is_a_string_that_travels():
    caption = Caption("a dog", ["two dogs"])
    again = pickle.loads(pickle.dumps(caption))
    assert again == "a dog" and again.others == ("two dogs",) and isinstance(again, Caption)
