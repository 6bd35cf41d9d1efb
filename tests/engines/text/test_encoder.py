"""The text encoder against transformers' on the same weights, and what must hold for any weights."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from engines.errors import BadRequest
from engines.text.encoder import TextConfig, TextEncoder

END = 59
CONFIG = TextConfig(vocab_size=60, context_length=12, width=32, layers=3, heads=4, end_token=END)
TOKENS = torch.tensor([
    [58, 4, 9, 11, 30, 2, 7, 8, END, END, END, END],
    [58, 4, END, END, END, END, END, END, END, END, END, END],
    [58, 4, 9, 11, 30, 2, 7, 8, 5, 50, 31, END],
])


def randomise(net):
    """Every parameter random, biases and norms included, so that all of them matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return net


def changed(**changes):
    return TextConfig(**vars(CONFIG) | changes)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("skip_last", [0, 1])
def test_equals_transformers_on_the_same_weights(activation, skip_last):
    theirs = randomise(CLIPTextModel(CLIPTextConfig(
        vocab_size=60, hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=12, hidden_act=activation,
        bos_token_id=58, eos_token_id=END, pad_token_id=END,
    ))).eval()
    ours = TextEncoder(changed(activation=activation, skip_last=skip_last)).eval()
    # Published files, and transformers before its version 5, hold every key under "text_model.".
    ours.load_state_dict({
        "text_model." + key.removeprefix("text_model."): value for key, value in theirs.state_dict().items()
    })
    with torch.no_grad():
        expected = theirs(TOKENS, output_hidden_states=True)
        hidden, pooled = ours(TOKENS)
        states = expected.last_hidden_state
        if skip_last:
            states = ours.text_model.final_layer_norm(expected.hidden_states[-1 - skip_last])
    assert states.std() > 0.1
    assert (hidden - states).norm() / states.norm() < 1e-4
    assert (pooled - expected.pooler_output).norm() / expected.pooler_output.norm() < 1e-4


def test_keys_and_size_are_those_of_clip():
    """The full-size default is the encoder of Stable Diffusion 1; built without memory."""
    with torch.device("meta"):
        state = TextEncoder(TextConfig()).state_dict()
    assert state["text_model.embeddings.token_embedding.weight"].shape == (49408, 768)
    assert state["text_model.encoder.layers.11.mlp.fc2.weight"].shape == (768, 3072)
    # 123,060,480 parameters: the text tower of openai/clip-vit-large-patch14.
    assert sum(value.numel() for value in state.values()) == 123_060_480


def test_a_batch_equals_its_singles():
    net = randomise(TextEncoder(CONFIG)).eval()
    with torch.no_grad():
        together = net(TOKENS)
        alone = [torch.cat(parts) for parts in zip(*(net(row[None]) for row in TOKENS), strict=True)]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_token_sees_only_those_before_it():
    net = randomise(TextEncoder(CONFIG)).eval()
    other = TOKENS[:1].clone()
    other[0, 5] = 3
    with torch.no_grad():
        a, b = net(TOKENS[:1])[0], net(other)[0]
    torch.testing.assert_close(a[:, :5], b[:, :5], rtol=0, atol=1e-6)
    assert ((a - b)[:, 5:].abs().amax(-1) > 1e-3).all()


def test_pooled_is_the_state_at_the_first_end():
    net = randomise(TextEncoder(CONFIG)).eval()
    with torch.no_grad():
        hidden, pooled = net(TOKENS)
    torch.testing.assert_close(pooled, torch.stack([hidden[0, 8], hidden[1, 2], hidden[2, 11]]))


@pytest.mark.parametrize("skip_last", [0, 1])
def test_gradients_reach_every_parameter(skip_last):
    net = randomise(TextEncoder(changed(skip_last=skip_last)))
    hidden, pooled = net(TOKENS)
    (hidden.square().sum() + pooled.square().sum()).backward()
    assert not [key for key, p in net.named_parameters()
                # A bias of the keys shifts all scores of a query alike, which the softmax does not see.
                if not key.endswith("k_proj.bias") and not p.grad.abs().sum() > 0]


def test_too_many_tokens_are_refused():
    with pytest.raises(BadRequest, match="13 tokens.*up to 12"):
        TextEncoder(CONFIG)(torch.full((1, 13), END))


def test_a_text_without_end_is_refused():
    with pytest.raises(BadRequest, match="no end token"):
        TextEncoder(CONFIG)(torch.tensor([[58, 1, END], [58, 1, 2]]))


@pytest.mark.parametrize("changes, words", [
    (dict(width=0), "width"),
    (dict(heads=5), "5 heads"),
    (dict(activation="relu"), "quick_gelu, gelu"),
    (dict(end_token=60), "end_token"),
    (dict(skip_last=3), "skip_last"),
])
def test_a_config_that_cannot_be_built_is_refused(changes, words):
    with pytest.raises(BadRequest, match=words):
        changed(**changes)
