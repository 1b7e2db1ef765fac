"""Images of many bands: reading them, and encoders whose first layer takes them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gentle_core.api import ComponentError, DataError
from gentle_remote_sensing.bands import BandsFile, read_bands
from gentle_remote_sensing.datasets import folder
from gentle_remote_sensing.datasets.config import SceneFolderConfig
from gentle_remote_sensing.encoders.bands import build, first_layer, widened
from gentle_remote_sensing.encoders.config import BandsConfig

SMALL = {"weights": "random"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("others", ["mean", "zero"])
def test_the_first_layer_does_with_its_colours_what_it_did_before(others):
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
    layer = widened(first, 6, (3, 2, 1), others)
    image = torch.zeros(2, 6, 8, 8)
    image[:, 1:4] = torch.randn(2, 3, 8, 8)
    colours = image[:, [3, 2, 1]]
    scale = 0.5 if others == "mean" else 1.0
    plain = first(colours) - first.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(image) - layer.bias.view(1, -1, 1, 1), plain * scale)
    if others == "mean":  # a grey image, the same in every band, gives what it gave in three
        grey = torch.randn(2, 1, 8, 8)
        torch.testing.assert_close(layer(grey.repeat(1, 6, 1, 1)), first(grey.repeat(1, 3, 1, 1)))
    else:
        image[:, [0, 4, 5]] = 9.0
        torch.testing.assert_close(layer(image) - layer.bias.view(1, -1, 1, 1), plain)


def test_efficientnet_with_bands_begins_as_the_one_for_colours(context):
    pytest.importorskip("efficientnet_lite_pytorch")
    config = BandsConfig(bands=5, rgb=(2, 1, 0), others="zero", scale=1.0, resolution=32, **SMALL)
    torch.manual_seed(0)
    encoder = build(config, context).eval()
    torch.manual_seed(0)
    from gentle_vision_language.encoders.config import EfficientNetConfig
    from gentle_vision_language.encoders.efficientnet import build as build_colours

    colours = build_colours(EfficientNetConfig(weights="random"), context).eval()
    images = [np.random.default_rng(i).random((5, 40, 48), dtype=np.float32) for i in range(2)]
    inputs = encoder.collate(images)
    assert inputs["pixels"].shape == (2, 5, 32, 32)
    with torch.no_grad():
        found = encoder(inputs)
        expected = colours.embed(((inputs["pixels"] - 0.5) / 0.25)[:, [2, 1, 0]])
    assert found.shape == (2, encoder.width)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_in_hugging_face_layout_from_disk(context, tmp_path):
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    shape = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(shape).save_pretrained(tmp_path / "resnet")
    options = {"backbone": "hf-image", "path": tmp_path / "resnet", "resolution": 32}
    encoder = build(BandsConfig(bands=13, rgb=(3, 2, 1), **options), context).eval()
    image = np.random.default_rng(0).integers(0, 10000, (13, 64, 64)).astype(np.uint16)
    with torch.no_grad():
        found = encoder(encoder.collate([image]))
    assert found.shape == (1, 16) and bool(found.isfinite().all())
    # Saved and loaded without the folder it came from.
    again = build(BandsConfig(**encoder.portable()), type(context)(cache_dir=tmp_path, load_weights=False)).eval()
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(again.collate([image])), found)
    assert again.fingerprint() == encoder.fingerprint()


def test_the_fingerprint_knows_the_scaling(context):
    pytest.importorskip("efficientnet_lite_pytorch")

    def made(**more):
        torch.manual_seed(0)
        return build(BandsConfig(bands=4, resolution=32, **SMALL, **more), context).fingerprint()

    assert made() == made() and len({made(), made(scale=255.0), made(mean=(0.1, 0.2, 0.3, 0.4))}) == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bands": 4, "rgb": (0, 1, 4)}, "three different bands from 0 to 3"),
        ({"bands": 4, "rgb": (0, 1, 1)}, "three different bands"),
        ({"bands": 4, "mean": (0.5,)}, "mean has 1 values for 4 bands"),
        ({"bands": 3, "std": (0.5, 0.0, 1.0)}, "deviations are above 0"),
        ({"bands": 3, "backbone": "hf-image"}, "give one of model"),
        ({"bands": 3, "model": "microsoft/resnet-50"}, "model is for backbone = 'hf-image'"),
    ],
)
def test_options_that_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        BandsConfig(**options)


def test_a_model_without_a_layer_that_could_read_bands():
    with pytest.raises(ComponentError, match="no first convolution"):
        first_layer(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)))


@pytest.fixture
def write_tiff():
    rasterio = pytest.importorskip("rasterio")

    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(
                path, "w", driver="GTiff", count=len(array), height=array.shape[1], width=array.shape[2],
                dtype=array.dtype.name,
            ) as file:  # fmt: skip
                file.write(array)
        return path

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_geotiff_comes_back_band_by_band(write_tiff, tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 200, (13, 9, 11)).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", array)
    found = read_bands(BandsFile(str(path)), 13)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_what_is_said_of_files_that_are_no_images_of_bands(write_tiff, tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.ones((4, 9, 9), dtype=np.uint16))
    with pytest.raises(DataError, match=r"a.tif: has 4 bands, not 13"):
        read_bands(BandsFile(str(path)), 13)
    whole = path.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(DataError, match="cut.tif: cannot be decoded"):
        read_bands(BandsFile(str(tmp_path / "cut.tif")))
    with pytest.raises(DataError, match="empty.tif: is empty"):
        read_bands(BandsFile(str(tmp_path / "empty.tif")))
    with pytest.raises(DataError, match="is \\(bands, height, width\\)"):
        read_bands(np.ones((4, 4)))
    with pytest.raises(DataError, match="no finite number"):
        read_bands(np.full((2, 3, 3), np.nan))


def test_class_folders_of_geotiff(write_tiff, tmp_path, context, notices):
    for name in ("Forest", "River"):
        for i in range(2):
            write_tiff(tmp_path / "EuroSAT" / name / f"{name}_{i}.tif", np.full((13, 16, 16), i, dtype=np.uint16))
    (tmp_path / "EuroSAT" / "River" / "broken.tif").write_bytes(b"II*\0nothing")
    data = folder.build(SceneFolderConfig(path=tmp_path / "EuroSAT", multispectral=True), context)
    index = data.index("test")
    assert list(index) == ["multispectral-image"] and len(index["multispectral-image"]) == 4
    assert "broken.tif" in notices[0]
    [item] = data.load("multispectral-image", ["River/River_1.tif"])
    assert read_bands(item).shape == (13, 16, 16)
