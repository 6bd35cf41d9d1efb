"""Muon against torch's own, which computes in bfloat16, and against the singular value decomposition."""

import pytest
import torch

from engines.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_the_nearest_orthogonal_matrix_is_met_about(shape):
    matrix = 3e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    assert found.shape == shape
    assert torch.linalg.svdvals(found)[:-2].sub(1).abs().max() < 0.35  # the rarest directions take more iterations
    assert torch.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.97


@pytest.mark.parametrize("shape", [(24, 12), (8, 32)])
def test_steps_are_those_of_torch(shape):
    draw = torch.Generator().manual_seed(1)
    ours = torch.nn.Parameter(torch.randn(shape, generator=draw))
    theirs = torch.nn.Parameter(ours.detach().clone())
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2}
    pair = Muon([ours], **options), torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    before = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=draw)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert (ours - theirs).norm() < 0.02 * (ours - before).norm()


def test_what_has_no_gradient_stays():
    still, moved = torch.nn.Parameter(torch.eye(4)), torch.nn.Parameter(torch.eye(4))
    moved.grad = torch.ones(4, 4)
    Muon([still, moved], 0.1).step()
    assert torch.equal(still, torch.eye(4))
    assert not torch.equal(moved, torch.eye(4))
