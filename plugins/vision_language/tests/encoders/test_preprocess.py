"""Pixels are those of transformers' own processors (their Pillow versions, which need no torchvision)."""

from __future__ import annotations

import io
import json

import attrs
import numpy as np
import pytest
import torch

from gentle_core.api import DataError, WeightsError
from gentle_vision_language.encoders.image import ImageEncoder
from gentle_vision_language.encoders.preprocess import Preprocess, from_settings, scaled
from gentle_vision_language.items import ImageFile

PROCESSORS = {
    "CLIPImageProcessorPil": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    "ViTImageProcessorPil": {"size": {"height": 32, "width": 32}},
    "ConvNextImageProcessorPil": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "SiglipImageProcessorPil": {"size": {"height": 32, "width": 32}},
    "BitImageProcessorPil": {"size": {"shortest_edge": 32}, "crop_size": {"height": 48, "width": 24}},
}


def reference(name: str):
    from transformers.models.bit import image_processing_pil_bit
    from transformers.models.clip import image_processing_pil_clip
    from transformers.models.convnext import image_processing_pil_convnext
    from transformers.models.siglip import image_processing_pil_siglip
    from transformers.models.vit import image_processing_pil_vit

    modules = (image_processing_pil_bit, image_processing_pil_clip, image_processing_pil_convnext,
               image_processing_pil_siglip, image_processing_pil_vit)  # fmt: skip
    return next(getattr(module, name) for module in modules if hasattr(module, name))


class Pixels(ImageEncoder):
    """The normalised pixels themselves."""

    def embed(self, pixels):
        return pixels


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(50, 70), (91, 40), (32, 32), (20, 17)])
def test_same_pixels_as_transformers(name, shape, picture):
    processor = reference(name)(**PROCESSORS[name])
    settings = json.loads(processor.to_json_string())
    image = picture(1, shape[1], shape[0])
    expected = processor(image, return_tensors="pt")["pixel_values"]
    encoder = Pixels(from_settings(settings))
    found = encoder(encoder.collate([np.asarray(image)]))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PROCESSORS if not name.startswith("Bit")])
def test_settings_that_leave_out_mean_and_deviation(name, picture):
    processor = reference(name)(**PROCESSORS[name])
    settings = json.loads(processor.to_json_string())
    for key in ("image_mean", "image_std"):
        settings.pop(key)
    encoder = Pixels(from_settings(settings))
    expected = processor(picture(1), return_tensors="pt")["pixel_values"]
    assert torch.allclose(encoder(encoder.collate([np.asarray(picture(1))])), expected, atol=1e-5)


def test_jpeg_at_a_fraction_of_its_size_is_close(picture, tmp_path):
    image = picture(2, 640, 480)
    image.save(tmp_path / "a.jpg", quality=95)
    plan = Preprocess(shortest=56, crop=(56, 56))
    small = plan(ImageFile(str(tmp_path / "a.jpg")))
    from PIL import Image

    whole = plan(np.asarray(Image.open(tmp_path / "a.jpg")))
    assert np.abs(small.astype(int) - whole.astype(int)).mean() < 1


def test_resolution_scales_resize_and_crop():
    plan = from_settings({"size": {"shortest_edge": 256}, "crop_size": 224})
    assert plan.crop == (224, 224) and plan.shortest == 256
    assert (scaled(plan, 112).shortest, scaled(plan, 112).crop) == (128, (112, 112))
    assert Preprocess.from_json(plan.to_json()) == plan


def test_old_and_odd_settings():
    assert from_settings({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}).exact == (224, 224)
    clip = from_settings({"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"})
    assert (clip.shortest, clip.crop) == (224, (224, 224))
    assert from_settings({"size": {"shortest_edge": 384}, "crop_pct": 0.9}).exact == (384, 384)
    plain = from_settings({"size": 8, "do_rescale": False, "image_mean": 127.5, "image_std": 127.5})
    assert plain.mean == pytest.approx((0.5,) * 3) and plain.std == pytest.approx((0.5,) * 3)
    with pytest.raises(WeightsError, match="does not resize"):
        from_settings({"do_resize": False})
    with pytest.raises(WeightsError, match="longest_edge"):
        from_settings({"size": {"longest_edge": 100}})


def test_errors_name_the_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="x.jpg: is no image"):
        Preprocess(exact=(8, 8))(ImageFile(str(tmp_path / "x.jpg")))


def test_bytes_and_floats_normalise_alike(picture):
    encoder = Pixels(Preprocess(exact=(16, 16)))
    raw = encoder.collate([np.asarray(picture())])
    assert raw["pixels"].dtype == torch.uint8
    assert torch.allclose(encoder(raw), encoder({"pixels": raw["pixels"] / 255}), atol=1e-6)


def test_every_field_is_saved():
    plan = Preprocess(shortest=1, exact=(2, 3), crop=(4, 5), resample=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert attrs.asdict(Preprocess.from_json(plan.to_json())) == attrs.asdict(plan)


def test_cmyk_and_grey_have_three_channels(picture):
    plan = Preprocess(exact=(8, 8))
    for mode in ("L", "CMYK", "1", "YCbCr"):
        out = io.BytesIO()
        picture().convert(mode).save(out, "TIFF")
        assert plan(out.getvalue()).shape == (3, 8, 8)
