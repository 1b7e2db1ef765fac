"""The objectives as plain loops over Python floats: slow, and as close to the formulas as can be."""

from __future__ import annotations

import math

Row = list[float]
Rows = list[Row]


def dot(x: Row, y: Row) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def squared(x: Row, y: Row) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def clip(u: Rows, v: Rows, s: float, ids_u: list[int], ids_v: list[int], negatives: str = "paired") -> float:
    """Eq. 1; a target is shared evenly among all rows with the anchor's id."""

    def direction(x: Rows, ids_x: list[int], y: Rows, ids_y: list[int]) -> list[float]:
        columns = [j for j in range(len(y)) if negatives == "all" or ids_y[j] in ids_x]
        losses = []
        for i in range(len(x)):
            mates = [j for j in range(len(y)) if ids_y[j] == ids_x[i]]
            if mates:
                below = log_sum_exp([s * dot(x[i], y[j]) for j in columns])
                losses.append(sum(below - s * dot(x[i], y[j]) for j in mates) / len(mates))
        return losses

    forward, backward = direction(u, ids_u, v, ids_v), direction(v, ids_v, u, ids_u)
    return 0.0 if not forward else (sum(forward) / len(forward) + sum(backward) / len(backward)) / 2


def ssl(z: Rows, z_pos: Rows, tau: float, form: str) -> float:
    losses = []
    if form == "ntxent":
        both = z + z_pos
        for i in range(len(both)):
            mate = (i + len(z)) % len(both)
            others = [dot(both[i], both[j]) / tau for j in range(len(both)) if j != i]
            losses.append(log_sum_exp(others) - dot(both[i], both[mate]) / tau)
    else:
        for i in range(len(z)):
            others = [dot(z[i], y) / tau for y in (z_pos if form == "simcse" else z)]
            losses.append(log_sum_exp(others) - dot(z[i], z_pos[i]) / tau)
    return sum(losses) / len(losses)


def median_distance(u: Rows, v: Rows) -> float:
    pooled = u + v
    distances = sorted(squared(pooled[i], pooled[j]) for i in range(len(pooled)) for j in range(i))
    return math.sqrt(distances[(len(distances) - 1) // 2])


def mmd(u: Rows, v: Rows, beta: tuple[float, float], h: float, p: int = 2, c: float = 1.0) -> float:
    """Eq. 2, expanded into means over cells."""

    def kernel(x: Row, y: Row) -> float:
        return beta[0] * math.exp(-squared(x, y) / (2 * h * h)) + beta[1] * ((dot(x, y) + c) / (1 + c)) ** p

    def mean(x: Rows, y: Rows) -> float:
        return math.fsum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))

    return mean(u, u) + mean(v, v) - 2 * mean(u, v)


def sigma(t: Rows) -> float:
    """Eq. 6."""
    mean = [math.fsum(column) / len(t) for column in zip(*t, strict=True)]
    return math.fsum(squared(row, mean) for row in t) / (len(t) - 1)


def density(x: Row, t: Rows, b: float, leave_out: int | None = None) -> float:
    """Eq. 5."""
    width = b * b * sigma(t)
    cells = [math.exp(-squared(x, row) / width) for i, row in enumerate(t) if i != leave_out]
    return math.fsum(cells) / (2 * len(cells) * b * b * math.pi)


def sdd(u: Rows, v: Rows, b: float = 1.0, normalise: bool = True, exclude_self: bool = False) -> float:
    """Eqs. 3 and 4."""

    def gamma(t: Rows, r: Rows) -> float:
        own = [density(t[i], t, b, i if exclude_self else None) for i in range(len(t))]
        foreign = [density(row, r, b) for row in t]
        if not normalise:
            return sum((p - q) * math.log(p / q) for p, q in zip(own, foreign, strict=True)) / len(t)
        own, foreign = ([value / math.fsum(side) for value in side] for side in (own, foreign))
        return math.fsum(p * math.log(p / q) for p, q in zip(own, foreign, strict=True))

    return (gamma(u, v) + gamma(v, u)) / 2
