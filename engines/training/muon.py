"""Muon: momentum steps whose matrices are made orthogonal (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

A matrix of weights moves as far in its rare directions as in its common ones, and a transformer learns from
fewer pictures. `torch.optim.Muon` does the same in bfloat16, which processors without it crawl in.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, chosen by its authors
ITERATIONS = 5


def orthogonal(matrix):
    """The nearest orthogonal matrix, about: singular values of `matrix (N, M)` brought to 0.7 to 1.2.

    By the quintic Newton-Schulz iteration, in the precision of the matrix.
    """
    a, b, c = COEFFICIENTS
    x = matrix.mT if len(matrix) > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Steps matrices `(N, M)` by Nesterov momentum made orthogonal.

    A step's spread is that of AdamW's (Liu et al., 2025, eq. 4), so that one learning rate suits both.
    """

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._step(matrix, group["lr"], group["momentum"], group["weight_decay"])

    def _step(self, matrix, lr, momentum, weight_decay):
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        matrix.mul_(1 - lr * weight_decay)
        update = orthogonal(matrix.grad.lerp(mean, momentum))
        matrix.add_(update, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)
