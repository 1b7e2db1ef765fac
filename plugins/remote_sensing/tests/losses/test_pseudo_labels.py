"""Pseudo-labels against loops in float64, and what must hold of them whatever the batch."""

from __future__ import annotations

import math

import pytest
import torch

from gentle_core.api import AlignBatch, DataError, LossContext, RecipeError, Rows
from gentle_remote_sensing.losses.captions import CaptionLabels, assignment, transport
from gentle_remote_sensing.losses.config import CaptionConfig, KeywordConfig
from gentle_remote_sensing.losses.keywords import KeywordLabels

S = 1 / 0.07


def unit(rows, d, seed, dtype=torch.float64):
    z = torch.randn(rows, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=1).to(dtype)


def batch(image_ids, text_ids, labels=None, dtype=torch.float64, grad=False):
    image, text = unit(len(image_ids), 5, 1, dtype), unit(len(text_ids), 5, 2, dtype)
    if grad:
        image.requires_grad_(), text.requires_grad_()
    extras = {} if labels is None else {"labels": torch.tensor(labels)}
    return AlignBatch(
        {
            "image": Rows(image, torch.tensor(image_ids, dtype=torch.int64)),
            "text": Rows(text, torch.tensor(text_ids, dtype=torch.int64), extras=extras),
        }
    )


def sinkhorn_loop(cost, blur, rounds):
    """Plain Sinkhorn scaling of exp(-cost/blur), equal weights, in lists."""
    m, n = len(cost), len(cost[0])
    kernel = [[math.exp(-c / blur) for c in row] for row in cost]
    u, v = [1.0] * m, [1.0] * n
    for _ in range(rounds):
        u = [1 / m / sum(k * y for k, y in zip(row, v, strict=True)) for row in kernel]
        v = [1 / n / sum(kernel[i][j] * u[i] for i in range(m)) for j in range(n)]
    return [[u[i] * kernel[i][j] * v[j] for j in range(n)] for i in range(m)]


def targets_loop(images, image_ids, text_ids, assign, options):
    """Rows of target weights over the matched texts, by loops: for each image without a text, in order."""
    matched = [i for i, x in enumerate(image_ids) if x in text_ids]
    texts = [j for j, x in enumerate(text_ids) if x in image_ids]
    alone = [i for i, x in enumerate(image_ids) if x not in text_ids]
    cosine = [[sum(a * b for a, b in zip(images[i], images[k], strict=True)) for k in matched] for i in alone]
    if assign == "transport":
        plan = sinkhorn_loop([[1 - c for c in row] for row in cosine], options.blur, 4000)
        weights = [[x / sum(row) for x in row] for row in plan]
    elif assign == "soft":
        raised = [[math.exp(c / options.label_temperature) for c in row] for row in cosine]
        weights = [[x / sum(row) for x in row] for row in raised]
    else:
        weights = [[float(k == max(range(len(row)), key=row.__getitem__)) for k in range(len(row))] for row in cosine]
    found = []
    for row in weights:
        target = [0.0] * len(texts)
        for weight, k in zip(row, matched, strict=True):
            mates = [j for j, t in enumerate(texts) if text_ids[t] == image_ids[k]]
            for j in mates:
                target[j] += weight / len(mates)
        found.append(target)
    return alone, texts, found


@pytest.mark.parametrize("assign", ["hard", "soft", "transport"])
@pytest.mark.parametrize(
    ("image_ids", "text_ids"),
    [
        ([3, 1, 20, 7, 21, 22, 23], [7, 1, 40, 3]),  # another order, unmatched rows on both sides, unequal counts
        ([3, 1, 20, 21, 22], [1, 3, 1, 1, 3]),  # several captions an image
        ([3, 20, 21], [3, 40]),  # one pair
    ],
)
def test_captions_equal_the_loop(assign, image_ids, text_ids):
    config = CaptionConfig(assign=assign, queries=("image",), blur=0.2, iterations=4000)
    found = batch(image_ids, text_ids)
    z_image, z_text = (found.towers[name].z.tolist() for name in ("image", "text"))
    alone, texts, targets = targets_loop(z_image, image_ids, text_ids, assign, config)
    expected = 0.0
    for i, target in zip(alone, targets, strict=True):
        assert sum(target) == pytest.approx(1)
        logits = [S * sum(a * b for a, b in zip(z_image[i], z_text[j], strict=True)) for j in texts]
        top = max(logits)
        log_sum = top + math.log(sum(math.exp(x - top) for x in logits))
        expected += sum(t * (log_sum - x) for t, x in zip(target, logits, strict=True)) / len(alone)
    loss = CaptionLabels(config)
    out = loss(found, LossContext())
    tolerance = 1e-6 if assign == "transport" else 2e-7  # s itself is a float32 parameter
    assert out.loss.item() == pytest.approx(expected, rel=tolerance, abs=1e-12)
    assert out.counts == {"caption_labels": len(alone)}


@pytest.mark.parametrize("assign", ["hard", "soft", "transport"])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 6), (9, 1), (7, 12), (64, 5)])
def test_rows_of_every_assignment_sum_to_one(assign, m, n):
    weights = assignment(unit(m, 4, 1, torch.float32), unit(n, 4, 2, torch.float32), CaptionConfig(assign=assign))
    assert weights.shape == (m, n) and bool((weights >= 0).all()) and not weights.requires_grad
    torch.testing.assert_close(weights.sum(1), torch.ones(m))


def test_transport_uses_every_caption_equally_often_and_soft_does_not():
    query = torch.nn.functional.normalize(unit(40, 6, 1) + torch.eye(6, dtype=torch.float64)[0], dim=1)
    anchors = torch.cat([torch.eye(6, dtype=torch.float64)[:1], unit(7, 6, 2)])
    plan = assignment(query, anchors, CaptionConfig(iterations=5000))
    torch.testing.assert_close(plan.mean(0), torch.full((8,), 1 / 8, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    soft = assignment(query, anchors, CaptionConfig(assign="soft"))
    assert soft.mean(0).max() > 0.5  # nearly all of them choose the caption in the middle


def test_a_small_blur_gives_the_best_matching():
    cost = torch.tensor([[0.0, 0.1, 1.0], [0.0, 1.0, 1.0], [0.2, 1.0, 0.9]], dtype=torch.float64)
    # Row 0 would like column 0, but so would row 1, for which every other is dear.
    assert transport(cost, 0.01, 5000).argmax(1).tolist() == [1, 0, 2]


def test_the_targets_carry_no_gradient():
    found = batch([3, 1, 20, 21], [1, 3], grad=True)
    CaptionLabels(CaptionConfig(queries=("image",)))(found, LossContext()).loss.backward()
    gradient = found.towers["image"].z.grad.abs().sum(1)
    assert gradient[:2].tolist() == [0, 0]  # the captioned images enter through the targets alone
    assert (gradient[2:] > 0).all() and (found.towers["text"].z.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("kind", ["captions", "keywords"])
@pytest.mark.parametrize(
    ("image_ids", "text_ids"),
    [([1, 2], [1, 2]), ([1, 2], [3, 4]), ([1], [1]), ([1], [2]), ([], [1]), ([1, 2], [])],
    ids=["no unmatched rows", "no pairs", "one pair", "one row each", "no images", "no texts"],
)
def test_nothing_to_learn_is_exactly_zero_with_a_graph(kind, image_ids, text_ids):
    found = batch(image_ids, text_ids, labels=[[1, 0]] * len(text_ids), grad=True)
    loss = CaptionLabels(CaptionConfig()) if kind == "captions" else KeywordLabels(KeywordConfig())
    out = loss(found, LossContext())
    assert out.loss.item() == 0
    out.loss.backward()
    assert not found.towers["image"].z.grad.any()


def test_one_query_and_one_pair():
    out = CaptionLabels(CaptionConfig(queries=("image",)))(batch([1, 9], [1]), LossContext())
    assert out.loss.item() == 0  # one caption: no choice to learn
    assert out.counts == {"caption_labels": 1}


def test_both_towers_ask_where_no_query_tower_is_named():
    found = batch([1, 2, 8, 9], [1, 2, 7])
    both = CaptionLabels(CaptionConfig(assign="soft"))(found, LossContext())
    one, other = (
        CaptionLabels(CaptionConfig(assign="soft", queries=(name,)))(found, LossContext()) for name in ("image", "text")
    )
    assert both.loss.item() == pytest.approx((one.loss.item() + other.loss.item()) / 2)
    assert (both.counts["caption_labels"], one.counts["caption_labels"]) == (3, 2)


def test_keywords_equal_the_loop():
    image_ids, text_ids = [3, 1, 20, 21, 22, 23], [1, 3, 50, 51]
    labels = [[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]  # the last keyword is in no text
    found = batch(image_ids, text_ids, labels)
    images, texts = found.towers["image"].z, found.towers["text"].z
    keywords = []
    for k in range(3):
        mean = sum(texts[j] for j in range(4) if labels[j][k])
        keywords.append(mean / mean.norm())
    expected = []
    for i in range(2, 6):
        nearest = max((0, 1), key=lambda k: float(images[i] @ images[k]))
        allowed = [k for k in range(3) if labels[text_ids.index(image_ids[nearest])][k]]
        scores = [S * float(images[i] @ k) for k in keywords]
        log_sum = math.log(sum(math.exp(x) for x in scores))
        total = sum(math.exp(scores[k]) for k in allowed)
        expected.append(sum(math.exp(scores[k]) / total * (log_sum - scores[k]) for k in allowed))
    out = KeywordLabels(KeywordConfig(queries=("image",)))(found, LossContext())
    assert out.loss.item() == pytest.approx(sum(expected) / 4, rel=1e-6)
    assert out.counts == {"keyword_labels": 4}


def test_a_query_whose_neighbour_has_no_keyword_is_left_out():
    found = batch([3, 20, 21], [3, 50], [[0, 0], [1, 0]], grad=True)
    out = KeywordLabels(KeywordConfig(queries=("image",)))(found, LossContext())
    assert (out.loss.item(), out.counts) == (0, {"keyword_labels": 0})


def test_keyword_targets_carry_no_gradient():
    found = batch([3, 1, 20], [1, 3], [[1, 1, 0], [0, 1, 1]], grad=True)
    KeywordLabels(KeywordConfig(queries=("image",)))(found, LossContext()).loss.backward()
    assert found.towers["image"].z.grad.abs().sum(1)[:2].tolist() == [0, 0]


def test_what_is_said_of_wrong_towers_and_labels():
    with pytest.raises(RecipeError, match="queries names no tower picture; there are image, text"):
        CaptionLabels(CaptionConfig(queries=("picture",)))(batch([1, 2], [1, 3]), LossContext())
    with pytest.raises(DataError, match="one column a keyword"):
        KeywordLabels(KeywordConfig())(batch([1, 2], [1, 3], labels=[0, 1]), LossContext())


def test_float32_and_autocast_agree_with_float64():
    ids = list(range(16)) + list(range(100, 148)), list(range(16))
    exact = CaptionLabels(CaptionConfig())(batch(*ids), LossContext()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = CaptionLabels(CaptionConfig())(batch(*ids, dtype=torch.float32), LossContext()).loss
    assert single.item() == pytest.approx(exact.item(), rel=1e-5)
