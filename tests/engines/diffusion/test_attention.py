"""Cross-attention as maps: the weights against diffusers' own, and places by hand."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from engines.diffusion import attention
from engines.diffusion.unet import UNet
from tests.engines.diffusion.test_unet import CASES, inputs, peer
from tests.peers import published_key


class Watching(AttnProcessor):
    """The peer's plain attention, which keeps its weights over a context."""

    def __init__(self, found):
        self.found = found

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **more):
        if encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            self.found.append(attn.get_attention_scores(query, key).unflatten(0, (-1, attn.heads)))
        return super().__call__(attn, hidden_states, encoder_hidden_states, **more)


@pytest.mark.parametrize("name", ["sd1", "sd2", "three_levels_fewer_groups"])
def test_weights_are_those_of_diffusers_and_watching_changes_nothing(name):
    config, changes = CASES[name]
    theirs, ours = peer(changes), UNet(config).eval()
    ours.load_state_dict({published_key(key, config): value for key, value in theirs.state_dict().items()})
    given, expected = inputs(config), []
    theirs.set_attn_processor(Watching(expected))
    with torch.no_grad():
        theirs(given["x"], given["timesteps"], given["context"])
        unwatched = ours(**given)
        with attention.watched(ours) as found:
            watched = ours(**given)
        ours(**given)
    assert torch.equal(watched, unwatched)
    assert len(found) == len(expected) > 2  # and none of the pass after
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))


def test_places_are_the_shares_of_the_tokens_at_each_size():
    """One layer as large as the latents, one of half the sides: the mean of both, at the size of the latents."""
    fine = torch.zeros(1, 2, 4 * 6, 3)
    fine[..., 0] = 1
    fine[0, :, 7] = torch.tensor([0.2, 0.5, 0.3])
    coarse = torch.zeros(1, 2, 2 * 3, 3)
    coarse[..., 0] = 1
    found = attention.places([fine, coarse], range(1, 3), (4, 6))
    assert found.shape == (1, 4, 6)
    assert found[0, 1, 1].item() == pytest.approx(0.8 / 2)
    assert found.sum().item() == pytest.approx(0.8 / 2)
    coarse[..., 0], coarse[..., 2] = 0, 1
    assert attention.places([fine, coarse], range(1, 3), (4, 6))[0, 3, 3].item() == pytest.approx(0.5)
    assert attention.places([fine, coarse], range(1, 2), (4, 6))[0, 3, 3].item() == 0
