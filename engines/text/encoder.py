"""The text transformer of CLIP (Radford et al., 2021, section 2.4).

Modules carry the names of transformers' `CLIPTextModel`, so that published weights load by equality
of keys.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engines.errors import BadRequest, unknown


def quick_gelu(x):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with (Hendrycks & Gimpel, 2016)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TextConfig:
    """The shape of a text encoder; the defaults are those of Stable Diffusion 1 (CLIP ViT-L/14)."""

    vocab_size: int = 49408  # tokens that exist
    context_length: int = 77  # most tokens of one text, start and end included
    width: int = 768  # channels of a token
    layers: int = 12  # transformer layers
    heads: int = 12  # attention heads; divides width
    activation: str = "quick_gelu"  # quick_gelu (OpenAI's CLIP) or gelu (OpenCLIP)
    end_token: int = 49407  # id of the end-of-text token, where the pooled vector is read
    skip_last: int = 0  # layers left out of the hidden states: 1 is the penultimate layer of SD 2
    hidden_norm: bool = True  # whether the hidden states pass through the final norm; in SDXL they do not
    projection: int = 0  # width of the pooled vector after its projection; 0 leaves it as it is

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of a text encoder is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.heads:
            raise BadRequest(f"A text encoder of width {self.width} cannot be split into {self.heads} heads.")
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        if not 0 <= self.end_token < self.vocab_size:
            last = self.vocab_size - 1
            raise BadRequest(f"end_token is {self.end_token}; it must lie between 0 and {last}.")
        if self.projection < 0:
            raise BadRequest(f"projection of a text encoder is {self.projection}; it must not be negative.")
        if not 0 <= self.skip_last < self.layers:
            raise BadRequest(f"skip_last is {self.skip_last}; it must lie between 0 and {self.layers - 1}.")


class Embeddings(nn.Module):
    """Token plus position: `(B, T)` int64 to `(B, T, width)`."""

    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)

    def forward(self, tokens):
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class SelfAttention(nn.Module):
    """Multi-head self-attention of each token to itself and those before it."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, width / heads)
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The feed-forward layer, four times as wide inside."""

    def __init__(self, config):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.fc2 = nn.Linear(4 * config.width, config.width)

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers in a row; returns the states after the last one and `skip_last` layers before it."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.kept = config.layers - config.skip_last

    def forward(self, x):
        for count, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if count == self.kept:
                hidden = x
        return x, hidden


class TextTransformer(nn.Module):
    """Embeddings, layers, and a final norm, which the hidden states may go round."""

    def __init__(self, config):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self.hidden_norm = config.hidden_norm

    def forward(self, tokens, end):
        last, hidden = self.encoder(self.embeddings(tokens))
        pooled = last[torch.arange(len(tokens), device=tokens.device), end]
        return self.final_layer_norm(hidden) if self.hidden_norm else hidden, self.final_layer_norm(pooled)


class TextEncoder(nn.Module):
    """Tokens `(B, T)` int64 to `(hidden, pooled)`: `(B, T, width)` and `(B, width)`, or as wide as the `projection`.

    `hidden` leaves out the last `skip_last` layers. `pooled` is the final-normed state of the first end-of-text
    token after all layers, projected where the model does so: what the whole text says. `weights (B, T)` move the
    states of tokens away from those of a text without words, or towards them: 1 leaves a token as it is. Raises
    `BadRequest` for more than `context_length` tokens and for a text without its end token.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        if config.projection:
            self.text_projection = nn.Linear(config.width, config.projection, bias=False)
        self._init_weights()

    def forward(self, tokens, weights=None):
        if tokens.shape[1] > self.config.context_length:
            raise BadRequest(
                f"The text has {tokens.shape[1]} tokens; "
                f"this encoder takes up to {self.config.context_length}."
            )
        is_end = tokens == self.config.end_token
        if not is_end.any(dim=1).all():
            raise BadRequest(
                f"A text has no end token ({self.config.end_token}): "
                "it was cut, or comes from another tokenizer."
            )
        hidden, pooled = self.text_model(tokens, is_end.int().argmax(dim=1))
        if self.config.projection:
            pooled = self.text_projection(pooled)
        if weights is not None and (weights != 1).any():
            silent = torch.full_like(tokens, self.config.end_token)
            silent[:, 0] = tokens[:, 0]
            nothing = self(silent)[0]
            hidden = nothing + weights[..., None] * (hidden - nothing)
        return hidden, pooled

    def _init_weights(self):
        """CLIP's own initialisation: residual branches shrink with the number of layers."""
        width, layers = self.config.width, self.config.layers
        branch = width**-0.5 * (2 * layers) ** -0.5
        nn.init.normal_(self.text_model.embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_model.embeddings.position_embedding.weight, std=0.01)
        if self.config.projection:
            nn.init.normal_(self.text_projection.weight, std=width**-0.5)
        for layer in self.text_model.encoder.layers:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
                nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.normal_(attention.out_proj.weight, std=branch)
            nn.init.normal_(layer.mlp.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(layer.mlp.fc2.weight, std=branch)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj,
                           layer.mlp.fc1, layer.mlp.fc2):
                nn.init.zeros_(linear.bias)
