"""Filters of a window of N places: by frequency (a circular convolution), and by one Haar level.

With the orthonormal Fourier transform along the window, X_f = sum_n x_n exp(-2 pi i f n / N) /
sqrt N, a filter changes the F = N // 2 + 1 frequencies of a real signal:

    y = irfft(change(rfft(x)))

The frequencies 0 and N / 2 of a real signal are real: what a change makes imaginary there is lost.
One Haar level splits pairs of neighbours into their mean and half their difference (the detail),
weighs the detail and puts them together again:

    a = (x_2n + x_2n+1) / 2,    b = w_n (x_2n - x_2n+1) / 2,    y_2n = a + b,    y_2n+1 = a - b
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""Of frequencies (B, F, D), complex, into such."""


def filter_window(x: Tensor, change: Change) -> Tensor:
    """x (B, N, D) in float32 or float64 -> (B, N, D), O(N log N D)."""
    changed = change(torch.fft.rfft(x, dim=1, norm="ortho"))
    y: Tensor = torch.fft.irfft(changed, n=x.shape[1], dim=1, norm="ortho")
    return y


def haar_window(x: Tensor, detail: Tensor) -> Tensor:
    """x (B, N, D) with N even, detail w (N / 2, D) -> (B, N, D)."""
    first, second = x.unflatten(1, (-1, 2)).unbind(2)
    mean, half = (first + second) / 2, (first - second) / 2 * detail
    return torch.stack([mean + half, mean - half], 2).flatten(1, 2)


def naive_filter(x: Tensor, change: Change) -> Tensor:
    """The definition, of one window x (N, D): sums over all N frequencies, O(N^2 D)."""
    places = len(x)
    number = torch.arange(places)
    turns = torch.polar(
        torch.full((places, places), places**-0.5, dtype=x.dtype),
        -2 * math.pi / places * (number[:, None] * number % places).to(x.dtype),
    )
    half = places // 2 + 1
    changed = change((turns[:half] @ x.to(turns.dtype))[None])[0]
    rows = []
    for f in range(places):
        # Of a real signal, frequency N - f is the conjugate of f, and its own is real.
        own = changed[f] if f < half else changed[places - f].conj()
        rows.append(own.real + 0j if f in (0, places - f) else own)
    signal: Tensor = (turns.conj() @ torch.stack(rows)).real
    return signal


def naive_haar(x: Tensor, detail: Tensor) -> Tensor:
    """The definition, of one window x (N, D)."""
    rows = []
    for n in range(len(x) // 2):
        mean = (x[2 * n] + x[2 * n + 1]) / 2
        difference = detail[n] * (x[2 * n] - x[2 * n + 1]) / 2
        rows += [mean + difference, mean - difference]
    return torch.stack(rows)
