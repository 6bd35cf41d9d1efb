"""The quantizer against brute force, diffusers and steps computed by hand."""

import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer as PeerQuantizer

from engines.vqgan.quantizer import VectorQuantizer, usage


def quantizer(n_embed=50, embed_dim=4, **options):
    """A quantizer with codes as wide as the latents below; the initial ones are tiny."""
    net = VectorQuantizer(n_embed, embed_dim, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net.embedding.weight.copy_(torch.randn((n_embed, embed_dim), generator=generator))
    return net


def latents(batch=2, embed_dim=4, height=6, width=8, seed=2):
    return torch.randn((batch, embed_dim, height, width), generator=torch.Generator().manual_seed(seed))


def vectors_of(z):
    return z.movedim(1, 3).flatten(0, 2)


def follow(net, codes, counts):
    """Puts a codebook and its running sums where a test wants them."""
    with torch.no_grad():
        net.embedding.weight.copy_(codes)
        net.counts.fill_(counts)
        net.sums.copy_(codes * counts)
    return net


@pytest.mark.parametrize("l2_normalised", [False, True])
def test_nearest_is_that_of_brute_force(l2_normalised):
    net, z = quantizer(l2_normalised=l2_normalised), latents()
    flat, codes = vectors_of(z).double(), net.embedding.weight.double()
    if l2_normalised:
        flat, codes = (side / side.square().sum(1, keepdim=True).sqrt() for side in (flat, codes))
    expected = torch.cdist(flat, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    found = net(z)
    assert len(expected.unique()) > 20
    assert torch.equal(found.indices.flatten(), expected)
    torch.testing.assert_close(vectors_of(found.codes), codes[expected].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("l2_normalised", [False, True])
def test_looked_up_codes_are_the_quantised_ones_and_stay_where_they_are(l2_normalised):
    net, z = quantizer(l2_normalised=l2_normalised), latents()
    first = net(z)
    assert first.indices.shape == (2, 6, 8) and first.indices.dtype == torch.int64
    torch.testing.assert_close(net.lookup(first.indices), first.codes)
    again = net(first.codes)
    assert torch.equal(again.indices, first.indices)
    torch.testing.assert_close(again.loss, torch.tensor(0.0), rtol=0, atol=1e-9)


def test_equals_diffusers_with_its_gradients():
    ours, theirs = quantizer(beta=0.4), PeerQuantizer(50, 4, beta=0.4, legacy=False)
    theirs.load_state_dict(ours.state_dict())
    weights, results = latents(seed=3), []
    for net in (ours, theirs):
        z = latents().requires_grad_()
        out = net(z)
        codes, loss = (out.codes, out.loss) if net is ours else out[:2]
        (3 * loss + (codes * weights).mean()).backward()
        results.append((codes, loss, z.grad, net.embedding.weight.grad))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_loss_is_that_of_the_paper(ema_decay):
    """Codebook term plus beta times commitment (van den Oord et al., eq. 3); an EMA codebook has no term."""
    net, z = quantizer(beta=0.3, ema_decay=ema_decay).eval(), latents()
    out = net(z)
    distance = (net.embedding.weight[out.indices].movedim(3, 1) - z).square().mean()
    torch.testing.assert_close(out.loss, (0.3 + (ema_decay == 0)) * distance)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_gradient_passes_straight_through(ema_decay):
    net, z, weights = quantizer(ema_decay=ema_decay).eval(), latents().requires_grad_(), latents(seed=3)
    (net(z).codes * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights, rtol=0, atol=0)
    assert net.embedding.weight.grad is None


def test_through_normalised_codes_only_the_gradient_along_the_sphere_passes():
    net, z, weights = quantizer(l2_normalised=True), latents().requires_grad_(), latents(seed=3)
    (net(z).codes * weights).sum().backward()
    assert z.grad.abs().amin() > 0
    along_z = (z.grad * z).sum(1)
    torch.testing.assert_close(along_z, torch.zeros_like(along_z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_normalised_codes_lie_on_the_sphere(ema_decay):
    net = VectorQuantizer(50, 4, l2_normalised=True, ema_decay=ema_decay)
    for seed in range(3):  # an EMA codebook must stay there while it learns
        out = net(10 * latents(seed=seed))
    for lengths in (out.codes.norm(dim=1), net.lookup(out.indices).norm(dim=1), net.codebook.norm(dim=1)):
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_length_does_not_matter_to_normalised_codes():
    net, z = quantizer(l2_normalised=True), latents()
    assert torch.equal(net(z).indices, net(7 * z).indices)


def test_an_ema_step_follows_the_batch_means():
    """With decay 1/2: counts 1 -> (1 + 3) / 2 and (1 + 1) / 2; sums likewise; codes are their quotients."""
    net = follow(VectorQuantizer(2, 2, ema_decay=0.5), torch.tensor([[0.0, 0.0], [10.0, 0.0]]), 1)
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [8.0, 2.0], [3.0, 3.0]]).T.view(1, 2, 2, 2)
    out = net(z)
    assert out.indices.tolist() == [[[0, 0], [1, 0]]]
    torch.testing.assert_close(net.counts, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(net.sums, torch.tensor([[3.0, 1.5], [9.0, 1.0]]))
    torch.testing.assert_close(net.embedding.weight.data, torch.tensor([[1.5, 0.75], [9.0, 1.0]]))
    # The step's own output is from the codes before it.
    torch.testing.assert_close(vectors_of(out.codes)[[0, 2]], torch.tensor([[0.0, 0.0], [10.0, 0.0]]))


def test_ema_codes_settle_at_the_means_of_their_clusters():
    centres = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
    spread = 0.3 * torch.randn((3, 20, 2), generator=torch.Generator().manual_seed(4))
    clusters = centres[:, None] + spread
    net = follow(VectorQuantizer(3, 2, ema_decay=0.8), centres * 0.7, 20)
    for _ in range(80):
        net(clusters.view(1, 60, 1, 2).movedim(3, 1))
    torch.testing.assert_close(net.embedding.weight.data, clusters.mean(1))


def test_an_ema_codebook_learns_in_training_only():
    net = quantizer(ema_decay=0.9)
    before = net.embedding.weight.clone()
    net.eval()(latents())
    assert torch.equal(net.embedding.weight, before)
    net.train()(latents())
    assert not torch.equal(net.embedding.weight, before)
    assert not net.embedding.weight.requires_grad


def test_a_loaded_codebook_goes_on_from_its_codes():
    """What a file brought is in use: the first step moves it a little, and restarts nothing."""
    source, net = quantizer(ema_decay=0.99), VectorQuantizer(50, 4, ema_decay=0.99)
    net.load_state_dict(source.state_dict())
    net.train()(latents())
    moved = (net.embedding.weight - source.embedding.weight).norm(dim=1)
    assert 0 < moved.max() < 0.1 * source.embedding.weight.norm(dim=1).mean()


def test_dead_codes_restart_at_vectors_of_the_batch():
    alive, far = torch.tensor([0.0, 0.0]), torch.tensor([100.0, 100.0])
    net = follow(VectorQuantizer(4, 2, ema_decay=0.5, restart_below=0.3), torch.stack([alive, far, far, far]), 0.4)
    z = latents(1, 2, 2, 3)
    net(z)
    # The living code has count (0.4 + 6) / 2; the dead ones had 0.2 < 0.3 and begin anew at 1.
    torch.testing.assert_close(net.counts, torch.tensor([3.2, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(net.embedding.weight[0], vectors_of(z).sum(0) / 2 / 3.2)
    apart = torch.cdist(net.embedding.weight[1:], vectors_of(z))
    assert (apart.amin(1) < 1e-6).all()
    assert len(apart.argmin(1).unique()) == 3  # at three different vectors


def test_more_dead_codes_than_vectors_restart_in_part():
    net = follow(VectorQuantizer(10, 2, ema_decay=0.5, restart_below=0.3), torch.full((10, 2), 9.0), 0.1)
    net(latents(1, 2, 1, 3))
    assert (net.counts == 1).sum() == 3


def fresh_usage(net):
    net.eval()
    return usage(net(latents(4, 4, 16, 16, seed=99)).indices, len(net.embedding.weight))[0]


def collapsed(**options):
    """Every code at one place, far from all latents."""
    torch.manual_seed(0)
    net = follow(VectorQuantizer(64, 4, ema_decay=0.9, **options), torch.full((64, 4), 50.0), 1)
    assert fresh_usage(net) == 1
    return net.train()


@pytest.mark.parametrize("l2_normalised", [False, True])
def test_a_collapsed_codebook_comes_to_life(l2_normalised):
    net = collapsed(l2_normalised=l2_normalised)
    for seed in range(60):
        net(latents(2, 4, 16, 16, seed=seed))
    assert fresh_usage(net) > 0.9 * 64


def test_without_restarts_a_collapsed_codebook_stays_collapsed():
    net = collapsed(restart_below=0.0)
    for seed in range(60):
        net(latents(2, 4, 16, 16, seed=seed))
    assert fresh_usage(net) == 1


@pytest.mark.parametrize("indices, expected", [
    (torch.arange(8).repeat(5), (8, 8.0)),
    (torch.full((2, 3, 3), 7), (1, 1.0)),
    (torch.tensor([[0, 0], [5, 2]]), (3, 2**1.5)),  # an entropy of 1.5 bits
])
def test_usage_and_perplexity(indices, expected):
    used, perplexity = usage(indices, 8)
    assert used == expected[0]
    assert perplexity == pytest.approx(expected[1], rel=1e-12)


def test_initial_codes_are_those_of_the_paper_s_code():
    torch.manual_seed(0)
    weight = VectorQuantizer(100, 8).embedding.weight.detach()
    assert weight.abs().max() <= 1 / 100 and float(weight.std()) == pytest.approx(0.01 / 3**0.5, rel=0.1)
    lengths = VectorQuantizer(100, 8, l2_normalised=True).embedding.weight.norm(dim=1)
    torch.testing.assert_close(lengths.detach(), torch.ones(100))
