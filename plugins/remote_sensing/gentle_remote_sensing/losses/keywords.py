"""Keyword-level pseudo-labels of S-CLIP (Mo et al. 2023, arXiv:2305.14095, sec. 3.3), for any two towers.

The keywords in the caption of the most similar captioned image are the candidates for an image without a caption; at
least one of them is right. What the model thinks of the candidates, scaled to sum 1, is the target (partial label
learning), and the loss is its cross-entropy with what the model thinks of all keywords.

S-CLIP embeds each keyword as a text of its own. A loss here sees the rows of the batch alone, so that a keyword is
embedded as the mean direction of the batch's texts that contain it; keywords that no text of the batch contains take
no part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gentle_core.api import AlignBatch, BuildContext, DataError, LossContext, LossOut
from gentle_remote_sensing.losses.config import KeywordConfig
from gentle_remote_sensing.losses.rows import Scaled, Side, other_rows, sides, zero


def candidates(side: Side, labels: Tensor) -> Tensor:
    """(M, K) bool: keywords of the mates of each query's most similar anchor; `labels` (P, K) are the mates' own."""
    nearest = (side.query @ side.anchors.T).detach().argmax(1)
    return ((side.share[nearest] > 0).to(labels.dtype) @ labels) > 0


def keyword_loss(query: Tensor, keywords: Tensor, allowed: Tensor, scale: Tensor) -> Tensor:
    """Mean over the queries (M, d) of the cross-entropy between softmax(s · query·keywords) over all keywords (K, d)
    and the same distribution restricted to the `allowed` ones (M, K), which carries no gradient."""
    logits = scale * query @ keywords.T
    with torch.no_grad():
        target = logits.masked_fill(~allowed, -torch.inf).softmax(1)
    return -(target * logits.log_softmax(1)).sum(1).mean()


class KeywordLabels(Scaled):
    """`remote-sensing/keyword-labels`: `keyword_loss` averaged over directions. Queries without a candidate are left
    out and not counted."""

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        values, rows = [], 0
        with torch.autocast(next(iter(batch.towers.values())).z.device.type, enabled=False):
            for side in sides(batch, ctx, self.queries):
                labels = self._labels(batch, side)
                if labels is None:
                    continue
                texts = other_rows(batch, side)
                labels = labels.to(texts.dtype)
                present = labels.sum(0) > 0
                allowed = candidates(side, labels[side.answers])[:, present]
                asks = allowed.any(1)
                if not asks.any():
                    continue
                keywords = F.normalize(labels[:, present].T @ texts, dim=1)
                scale = self.scale.to(texts.dtype)
                values.append(keyword_loss(side.query[asks], keywords, allowed[asks], scale))
                rows += int(asks.sum())
            loss = torch.stack(values).mean() if values else zero(batch)
        return LossOut(
            loss,
            terms={"keyword_labels": loss},
            counts={"keyword_labels": rows},
            logs={"keyword_labels/tau": 1 / self.scale.item()},
        )

    def _labels(self, batch: AlignBatch, side: Side) -> Tensor | None:
        """Keywords (rows, K) of the tower that answers; None where it has none."""
        labels = batch.towers[side.other].extras.get("labels")
        if labels is not None and labels.ndim != 2:
            raise DataError(
                f"keyword labels are rows of 0 and 1, one column a keyword; tower {side.other!r} has labels of shape "
                f"{tuple(labels.shape)}"
            )
        return labels


def build(config: KeywordConfig, context: BuildContext) -> KeywordLabels:
    return KeywordLabels(config)
