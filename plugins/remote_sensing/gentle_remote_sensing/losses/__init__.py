"""Pseudo-labels of S-CLIP (Mo et al. 2023): what the batch's captions and keywords say of images without a caption."""
