"""Entropic transport plans and softmax neighbourhoods that are never written out: their potentials and their averages.

A plan P_ij = exp(x_i·y_j/ε + f_i + g_j) over m and n rows is known by its potentials f and g. They are found by
log-sums over cells (`cells`), so that tiles and ranks serve here as everywhere. Averages such as Σ_j P_ij y_j are
gradients of log-sums or totals with respect to idle columns, which keeps them to the same machinery.

Shapes: m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gentle_core.losses.cells import Cells


def potentials(
    x: Tensor, y: Tensor, epsilon: float, steps: int, tile: int | str = "auto", group: Any = None
) -> tuple[Tensor, Tensor]:
    """f (m,) and g (n,) of the plan with uniform masses, by `steps` alternations of Sinkhorn's in log space.

    No gradient. The columns sum to 1/n exactly, the rows to 1/m as far as the alternations came.
    """
    with torch.no_grad():
        x, y = x.detach() / epsilon, y.detach()
        one_x, one_y = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        f, g = x.new_zeros(len(x)), y.new_zeros(len(y))
        rate = x.new_tensor(1.0)
        for _ in range(steps):
            left = torch.cat([x, one_x], 1)
            rows = _log_sums(left, torch.cat([y, g[:, None]], 1), rate, "rows", tile, group)
            f = (-rows - math.log(len(x))).to(x.dtype)
            right = torch.cat([y, one_y], 1)
            columns = _log_sums(torch.cat([x, f[:, None]], 1), right, rate, "columns", tile, group)
            g = (-columns - math.log(len(y))).to(y.dtype)
    return f, g


def _log_sums(x: Tensor, y: Tensor, rate: Tensor, what: str, tile: int | str, group: Any) -> Tensor:
    cells = Cells(tile, group)
    kernel = cells.between(x, y).kernel(rate, product=True).ask(what)
    cells.run()
    return (kernel.rows if what == "rows" else kernel.columns).value


def plan_averages(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, epsilon: float, of: tuple[Tensor, Tensor], tile: int | str, group: Any
) -> tuple[Tensor, Tensor]:
    """P·b (m, d) and Pᵀ·a (n, d) for the plan of x, y and their potentials, and `of` = (a, b) rows. No gradient."""
    a, b = (z.detach() for z in of)
    with torch.enable_grad():
        idle_a, idle_b = torch.zeros_like(a).requires_grad_(), torch.zeros_like(b).requires_grad_()
        one_x, one_y = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        left = torch.cat([x.detach() / epsilon, f[:, None], one_x, idle_a, a], 1)
        right = torch.cat([y.detach(), one_y, g[:, None], b, idle_b], 1)
        cells = Cells(tile, group)
        kernel = cells.between(left, right).kernel(x.new_tensor(1.0), product=True).ask("total")
        cells.run()
        first, second = torch.autograd.grad(kernel.total, (idle_a, idle_b))
    return first.detach(), second.detach()


def soft_averages(
    x: Tensor, y: Tensor, temperature: float, of: tuple[Tensor, Tensor], tile: int | str, group: Any
) -> tuple[Tensor, Tensor]:
    """Q·b (m, d) and Qᵀ·a (n, d), where row i of Q is the softmax of x_i·y_j / temperature over j. No gradient."""
    a, b = (z.detach() for z in of)
    with torch.enable_grad():
        idle_a, idle_b = torch.zeros_like(a).requires_grad_(), torch.zeros_like(b).requires_grad_()
        left = torch.cat([x.detach() / temperature, idle_a, a], 1)
        right = torch.cat([y.detach(), b, idle_b], 1)
        cells = Cells(tile, group)
        kernel = cells.between(left, right).kernel(x.new_tensor(1.0), product=True).ask("rows")
        cells.run()
        first, second = torch.autograd.grad(kernel.rows.value.sum(), (idle_a, idle_b))
    return first.detach(), second.detach()
