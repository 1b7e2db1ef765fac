"""What every component of the plugin must keep: see docs/reference/conformance.md."""

from gentle_core.testing import conformance

# Rendering all of OpenMoji takes half a minute; its own test renders a few.
COMPONENTS = (
    "hf-image", "hf-text", "efficientnet-lite", "flickr8k", "coco-captions", "image-captions", "webdataset", "captions",
    "images", "simclr", "word-dropout", "other-caption",
)  # fmt: skip

test_conformance = conformance("vision-language", only=COMPONENTS)
