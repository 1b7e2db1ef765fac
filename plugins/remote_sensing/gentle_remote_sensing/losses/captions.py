"""Caption-level pseudo-labels of S-CLIP (Mo et al. 2023, arXiv:2305.14095, sec. 3.2), for any two towers.

An image without a caption is compared with the images of the batch that have one; the captions of similar images are
its pseudo-labels. The similarity is taken within the images, where it can be trusted before the towers are aligned.
The loss is the cross-entropy of these labels and of what the model says, softmax(s · image·captions).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gentle_core.api import AlignBatch, BuildContext, LossContext, LossOut
from gentle_remote_sensing.losses.config import CaptionConfig
from gentle_remote_sensing.losses.rows import Scaled, other_rows, sides, zero


@torch.no_grad()
def assignment(query: Tensor, anchors: Tensor, config: CaptionConfig) -> Tensor:
    """Weights (M, N) of the anchors (N, d) for each query (M, d), both unit rows. Rows sum to 1; without a graph."""
    cosine = (query @ anchors.T).double() if query.device.type != "mps" else query @ anchors.T
    if config.assign == "soft":
        return (cosine / config.label_temperature).softmax(1).to(query.dtype)
    if config.assign == "hard":
        return torch.nn.functional.one_hot(cosine.argmax(1), len(anchors)).to(query.dtype)
    return transport(1.0 - cosine, config.blur, config.iterations).to(query.dtype)


def transport(cost: Tensor, blur: float, iterations: int) -> Tensor:
    """The entropic optimal-transport plan (M, N) between equal weights at `cost` (M, N), each row scaled to sum 1.

    The plan maximises −⟨plan, cost⟩ + blur · entropy: every anchor is used equally often, which "soft" does not ask.
    """
    import ot

    m, n = cost.shape
    rows, columns = cost.new_full((m,), 1.0 / m), cost.new_full((n,), 1.0 / n)
    with warnings.catch_warnings():  # a plan that is not yet exact serves as well, and rows are scaled below
        warnings.simplefilter("ignore")
        log = ot.sinkhorn(
            rows, columns, cost, blur, method="sinkhorn_log", numItermax=iterations, stopThr=1e-9, warn=False
        )
    plan: Tensor = log / log.sum(1, keepdim=True)
    return plan


class CaptionLabels(Scaled):
    """`remote-sensing/caption-labels`: mean cross-entropy over the rows without a mate, averaged over directions."""

    def __init__(self, config: CaptionConfig):
        super().__init__(config)
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        values, entropies, rows = [], [], 0
        with torch.autocast(next(iter(batch.towers.values())).z.device.type, enabled=False):
            for side in sides(batch, ctx, self.queries):
                target = assignment(side.query.detach(), side.anchors.detach(), self.config) @ side.share
                logits = self.scale.to(side.query.dtype) * side.query @ other_rows(batch, side)[side.answers].T
                values.append(-(target * logits.log_softmax(1)).sum(1).mean())
                entropies.append(torch.special.entr(target).sum(1).mean())
                rows += len(target)
            loss = torch.stack(values).mean() if values else zero(batch)
        logs = {"caption_labels/tau": 1 / self.scale.item()}
        if entropies:
            logs["caption_labels/floor"] = torch.stack(entropies).mean().item()
        return LossOut(loss, terms={"caption_labels": loss}, counts={"caption_labels": rows}, logs=logs)


def build(config: CaptionConfig, context: BuildContext) -> CaptionLabels:
    return CaptionLabels(config)
