"""The VQGAN's own generator: words to tokens by a token transformer, tokens to a picture by the VQGAN."""

from dataclasses import dataclass

import torch
from torch import nn

from engines.errors import BadRequest
from engines.text.encoder import TextConfig, TextEncoder
from engines.text.tokenizer import Tokenizer
from engines.vqgan.autoencoder import with_first_stage
from engines.vqgan.transformer import TokenTransformer, TransformerConfig


@dataclass(frozen=True)
class TokenGeneratorConfig:
    """All of the model but its weights and its VQGAN."""

    transformer: TransformerConfig
    text: TextConfig
    tokenizer: str  # the JSON text of the byte-pair encoding
    size: int = 128  # pixels a side of the training pictures

    def __post_init__(self):
        if self.text.width != self.transformer.context_dim:
            raise BadRequest(
                f"The text encoder is {self.text.width} wide, and the transformer listens to "
                f"{self.transformer.context_dim}; the two must be equal."
            )


class TokenGenerator(nn.Module):
    """Token transformer, text encoder and the frozen VQGAN."""

    family = "token-transformer"

    def __init__(self, config, first_stage):
        super().__init__()
        if config.transformer.n_embed != first_stage.codebook_config.n_embed:
            raise BadRequest(
                f"The transformer knows {config.transformer.n_embed} codes, and the VQGAN has "
                f"{first_stage.codebook_config.n_embed}; choose the VQGAN that it was trained with."
            )
        self.config = config
        self.first_stage = first_stage.requires_grad_(False).eval()
        self.transformer = TokenTransformer(config.transformer)
        self.text = TextEncoder(config.text)
        self.tokenizer = Tokenizer(config.tokenizer, config.text.context_length)

    @property
    def size(self):
        """Pixels a side of the pictures that it learned from."""
        return self.config.size

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.first_stage.config.factor

    @property
    def device(self):
        return self.transformer.bias.device

    def drawing_with(self, autoencoder):
        """This model with another VQGAN of the same tokens; all else belongs to both."""
        return with_first_stage(self, autoencoder)

    def words(self, texts):
        """The transformer's conditioning on a list of texts: `context (B, T, width)`.

        A text may be pieces `(words, weight)`.
        """
        tokens = torch.from_numpy(self.tokenizer.encode(texts)).to(self.device)
        weights = torch.from_numpy(self.tokenizer.weights(texts)).to(self.device)
        return {"context": self.text(tokens, weights)[0]}

    def encode(self, pictures):
        """Tokens `(B, h, w)` of pictures `(B, 3, H, W)`."""
        return self.first_stage.quantize(self.first_stage.encode(pictures)).indices

    def decode(self, tokens):
        """Pictures `(B, 3, H, W)` of tokens `(B, h, w)`."""
        return self.first_stage.decode_indices(tokens)
