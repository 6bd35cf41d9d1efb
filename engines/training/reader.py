"""A CLIP beside a training: do pictures tell their captions from those of others?

After Li et al., 2024, "Reward guided latent consistency distillation"; here with the captions of others, so that no
picture pleases by fitting them all.
"""

import torch

from engines.errors import BadRequest


class Reader:
    """A `clip` that has read the captions of `rows`, a list of `Variant`, in the `frame` of another model's latents.

    `frame` is a config with their `latent_mean` and `latent_std`. Pictures are seen under noise of up to the spread
    `noise`, as the CLIP learned, and each beside the captions of so many `others`. Raises `BadRequest` for a CLIP of
    latents of another shape.
    """

    def __init__(self, clip, rows, frame, *, noise, others):
        self.clip, self.rows, self.noise, self.others = clip.requires_grad_(False), rows, noise, others
        self.sha256, own = clip.sha256, clip.config
        wanted, reads = tuple(rows[0].encoded.shape), (len(own.latent_mean), own.latent_size, own.latent_size)
        if wanted != reads:
            raise BadRequest(f"The CLIP reads latents of {reads}, the model draws {wanted}: name one of its own VQGAN.")
        shift = torch.tensor(frame.latent_mean) - torch.tensor(own.latent_mean)
        self.scale, self.shift = frame.latent_std / own.latent_std, shift.view(1, -1, 1, 1) / own.latent_std
        captions = [row.caption() for row in rows]
        with torch.no_grad():
            chunks = [clip.embed_texts(captions[first : first + 256]) for first in range(0, len(captions), 256)]
        self.read = torch.cat(chunks)

    def misread(self, x, rows, captions, generator):
        """The mean cross entropy of `captions`, of the pictures `x (B, C, h, w)` of `rows`, among those of others.

        Captions of what a row shows, whatever their style, are not among them; rows without words have no part.
        """
        more = torch.rand((len(x), 1, 1, 1), generator=generator) * torch.randn(x.shape, generator=generator)
        x = self.scale * x + self.shift.to(x) + self.noise * more.to(x)
        drawn = torch.randint(len(self.rows), (self.others,), generator=generator)
        names = [self.rows[i].text() for i in drawn]
        same = torch.tensor([[row.text() == name for name in names] for row in rows], device=x.device)
        seen = self.clip.embed_latents(x)
        own = self.clip.similarity(self.clip.embed_texts(captions), seen).diagonal()
        others = self.clip.similarity(self.read[drawn.to(x.device)], seen).T.masked_fill(same, -torch.inf)
        errors = torch.cat([own[:, None], others], 1).logsumexp(1) - own
        worded = torch.tensor([bool(caption) for caption in captions], device=x.device)
        return (errors * worded).sum() / worded.sum().clamp(min=1)
