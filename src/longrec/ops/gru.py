"""A gated recurrent unit: its definition, and one event of it.

    r_t = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r)          what of the state the candidate sees
    z_t = sigmoid(W_z x_t + b_z + U_z h_{t-1} + c_z)          what of the state is kept
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + c_n))     the candidate
    h_t = (1 - z_t) n_t + z_t h_{t-1}

W, b, U, c have the rows of r, z and n one after the other, as torch's have.
"""

from __future__ import annotations

import torch
from torch import Tensor


def naive_gru(
    x: Tensor, hidden: Tensor, w: Tensor, b: Tensor, u: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, of one history: x (T, D) after h (D,) -> all h_t (T, D), and the last one."""
    rows = []
    of_r, of_z, of_n = torch.arange(len(w)).chunk(3)
    for event in x:
        r = 1 / (1 + (-(w[of_r] @ event + b[of_r] + u[of_r] @ hidden + c[of_r])).exp())
        z = 1 / (1 + (-(w[of_z] @ event + b[of_z] + u[of_z] @ hidden + c[of_z])).exp())
        n = torch.tanh(w[of_n] @ event + b[of_n] + r * (u[of_n] @ hidden + c[of_n]))
        hidden = (1 - z) * n + z * hidden
        rows.append(hidden)
    return torch.stack(rows), hidden


def gru_step(x: Tensor, hidden: Tensor, w: Tensor, b: Tensor, u: Tensor, c: Tensor) -> Tensor:
    """One event: x (B, D) after h (B, D) -> the new h (B, D)."""
    of_x = torch.addmm(b, x, w.t()).chunk(3, dim=-1)
    of_h = torch.addmm(c, hidden, u.t()).chunk(3, dim=-1)
    r, z = (of_x[0] + of_h[0]).sigmoid(), (of_x[1] + of_h[1]).sigmoid()
    n = (of_x[2] + r * of_h[2]).tanh()
    return n + z * (hidden - n)
