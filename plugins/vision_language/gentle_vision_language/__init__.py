"""Images and text for Gentle: encoders, caption datasets and augmentations."""
