"""Where in a picture words are, by the cross-attention of a latent diffusion model: a proposal for a mask."""

import time

import cv2
import numpy as np
import torch
from PIL import Image

from engines import pictures, tensors
from engines.diffusion import attention
from engines.errors import BadRequest
from engines.requests import LocateResult
from engines.tasks import inpaint

SHARES = (0.3, 0.5, 0.7)  # of the way to noise at which the model looks
LOOKS = 2  # at each


@torch.no_grad()
def locate(request, model, on_progress=None):
    """The places of the words of a `LocateRequest` by a `LatentDiffusion`: a map that falls from 1 to 0.

    The picture is hidden under some noise, as on the way of a drawing, and the model looks at it with the words
    in mind. Raises `BadRequest` for more words than the model reads.
    """
    started = time.monotonic()
    words, longest = request.prompt.strip(), model.config.text.context_length
    count = model.tokenizer.count(words)
    if count > longest:
        raise BadRequest(f"The words have {count} tokens; this model reads {longest}: shorten them.")
    image = pictures.from_png(request.image)
    width, height = size = inpaint.work_size((0, 0, *image.size), model)
    small = cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA)
    x0 = model.encode(tensors.from_image(Image.fromarray(small)).to(model.device))
    told, denoise = model.words([words], size), model.denoiser()
    if model.inpaints:
        told["concat"] = model.nothing_around(1, height, width)
    found = []
    for share in SHARES:
        sigma = model.noise.sigma(model.noise.time(torch.tensor([share], device=model.device)))
        for look in range(LOOKS):
            n = tensors.noise([request.seed + look], x0.shape[1:]).to(x0)
            with attention.watched(model.unet) as weights:
                denoise(x0 + sigma.view(-1, 1, 1, 1) * n, sigma, **told)
            found.append(attention.places(weights, range(1, count - 1), x0.shape[2:]))  # without start and end
    places = torch.stack(found).mean(0)[0].float().cpu().numpy()
    spread = np.ptp(places)
    places = (places - places.min()) / spread if spread else np.ones_like(places)
    return LocateResult(places, time.monotonic() - started)
