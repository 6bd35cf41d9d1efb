"""The token transformer: its blocks against torch's own, and what must hold for any weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engines.errors import BadRequest
from engines.vqgan.transformer import Block, TokenTransformer, TransformerConfig

CONFIG = TransformerConfig(n_embed=20, side=4, width=16, layers=2, heads=4, context_dim=16)


@pytest.fixture(params=[1, 2], ids=["tokens", "patches"])
def net(request):
    torch.manual_seed(0)
    return TokenTransformer(replace(CONFIG, patch=request.param)).eval()


def batch(count=2, height=4, width=4):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, CONFIG.n_embed, (count, height, width), generator=draw)
    hidden = torch.rand(tokens.shape, generator=draw) < 0.5
    return tokens, hidden, torch.randn(count, 5, CONFIG.context_dim, generator=draw)


def test_a_block_equals_torch_s_decoder_layer_on_the_same_weights():
    torch.manual_seed(2)
    theirs = nn.TransformerDecoderLayer(16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
    ours = Block(CONFIG).eval()
    state = {"feed_forward.0": theirs.linear1, "feed_forward.2": theirs.linear2}
    state |= {f"norm{i}": getattr(theirs, f"norm{i}") for i in (1, 2, 3)}
    weights = {f"{name}.{kind}": getattr(part, kind) for name, part in state.items() for kind in ("weight", "bias")}
    for name, attention in (("attention", theirs.self_attn), ("listening", theirs.multihead_attn)):
        for i, part in enumerate(("to_q", "to_k", "to_v")):
            weights[f"{name}.{part}.weight"] = attention.in_proj_weight.chunk(3)[i]
            weights[f"{name}.{part}.bias"] = attention.in_proj_bias.chunk(3)[i]
        weights[f"{name}.to_out.weight"] = attention.out_proj.weight
        weights[f"{name}.to_out.bias"] = attention.out_proj.bias
    ours.load_state_dict(weights)
    x, context = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    with torch.no_grad():
        expected, found = theirs.eval()(x, context), ours(x, context)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_a_hidden_token_says_nothing_and_a_known_one_does(net):
    tokens, hidden, context = batch()
    other = (tokens + 1) % CONFIG.n_embed
    with torch.no_grad():
        logits = net(tokens, hidden, context)
        assert logits.shape == (2, 4, 4, 20)
        assert torch.equal(logits, net(torch.where(hidden, other, tokens), hidden, context))
        assert not torch.allclose(logits, net(torch.where(hidden, tokens, other), hidden, context))


def test_words_and_places_matter(net):
    tokens, hidden, context = batch()
    with torch.no_grad():
        logits = net(tokens, torch.ones_like(hidden), context)
        assert not torch.allclose(logits[0], net(tokens, torch.ones_like(hidden), -context)[0])
        assert not torch.allclose(logits[0, 0, 0], logits[0, 3, 3])


def test_maps_of_another_size_are_read(net):
    tokens, hidden, context = batch(1, 6, 3)
    with torch.no_grad():
        assert net(tokens, hidden, context).shape == (1, 6, 3, 20)


def test_a_map_that_patches_do_not_fill_goes_on_hidden():
    torch.manual_seed(0)
    net = TokenTransformer(replace(CONFIG, patch=2)).eval()
    tokens, hidden, context = batch(1, 4, 4)
    hidden[:, 3], hidden[:, :, 3] = True, True
    with torch.no_grad():
        whole, part = net(tokens, hidden, context), net(tokens[:, :3, :3], hidden[:, :3, :3], context)
    torch.testing.assert_close(part, whole[:, :3, :3], rtol=1e-4, atol=1e-6)


def test_what_it_has_learned_it_says(net):
    """A few steps on one map, with half of it hidden, and the hidden half is known by heart."""
    tokens, hidden, context = batch(1)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(tokens, hidden, context)[hidden], tokens[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(net(tokens, hidden, context).argmax(-1)[hidden], tokens[hidden])


@pytest.mark.parametrize("fields", [{"n_embed": 0}, {"layers": 0}, {"patch": 0}, {"heads": 3}, {"dropout": 1.0}])
def test_a_shape_that_cannot_be_built_is_refused(fields):
    with pytest.raises(BadRequest):
        TransformerConfig(**vars(CONFIG) | fields)
