"""The ESM-2 token alphabet (33 tokens) and residue names, without importing fair-esm or transformers."""

from __future__ import annotations

import numpy as np

TOKENS = (
    "<cls>", "<pad>", "<eos>", "<unk>",
    "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N", "F", "Y", "M", "H", "W", "C",
    "X", "B", "U", "Z", "O", ".", "-", "<null_1>", "<mask>",
)  # fmt: skip
CLS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, 32
STANDARD = "LAGVSERTIDPKQNFYMHWC"
MASK_LETTER = "#"
"""Stands for `<mask>` in a plain string, so that an augmentation can mask a residue before the chain is encoded."""

_TOKEN_OF_BYTE = np.full(256, UNK, dtype=np.int64)
for _index, _token in enumerate(TOKENS):
    if len(_token) == 1:
        _TOKEN_OF_BYTE[ord(_token)] = _index
        _TOKEN_OF_BYTE[ord(_token.lower())] = _index
_TOKEN_OF_BYTE[ord(MASK_LETTER)] = MASK


def encode(sequence: str) -> np.ndarray:
    """Token indices of the residues of `sequence`, shape (L,), int64; no CLS or EOS. Unknown letters become `<unk>`."""
    return _TOKEN_OF_BYTE[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]
