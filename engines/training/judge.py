"""An icon classifier that judges what models draw, and is part of no loss: what does it show, in which style?

It learns anew from the training pictures whenever models are measured, in minutes and from fixed seeds,
so that nothing of it ships.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from engines import tensors
from engines.requests import STYLES
from engines.text.captions import BACKGROUNDS
from engines.training import data

SIZE = 64  # pixels a side that it looks at


class Judge(nn.Module):
    """Pictures `(B, 3, H, W)` in [-1, 1] to logits of what they show `(B, concepts)` and of their style `(B, styles)`.

    `concepts` is the list of captions that it knows, without styles.
    """

    def __init__(self, concepts, ch=64):
        super().__init__()
        self.concepts = list(concepts)
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            *_layer(48, ch),
            *_layer(ch, 2 * ch, stride=2),
            *_layer(2 * ch, 2 * ch),
            *_layer(2 * ch, 4 * ch, stride=2),
            *_layer(4 * ch, 4 * ch),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * ch, 4 * ch),
        )
        self.concept = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(4 * ch, len(self.concepts)))
        self.style = nn.Sequential(nn.ReLU(), nn.Linear(4 * ch, len(STYLES)))

    def features(self, x):
        """What it sees in a picture: `(B, 4 ch)`."""
        return self.body(F.interpolate(x, size=(SIZE, SIZE), mode="area"))

    def forward(self, x):
        features = self.features(x)
        return self.concept(features), self.style(features)


def _layer(in_channels, out_channels, stride=1):
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.BatchNorm2d(out_channels), nn.ReLU()


def train_judge(examples, *, steps=800, batch=128, rate=2e-3, seed=0, device="cpu", report=None):
    """A `Judge` of the icons among `examples` that are not held out; the same each time on one device.

    `report(step, steps)` is called after every step.
    """
    seen = [e for e in data.not_held_out(examples) if e.text and e.style in STYLES]
    styles, concepts = list(STYLES), sorted({e.text for e in seen})
    numbers = {text: i for i, text in enumerate(concepts)}
    small = [np.asarray(Image.fromarray(e.pixels).resize((SIZE, SIZE), Image.Resampling.BOX)) for e in seen]
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        judge = Judge(concepts).to(device)
        optimizer = torch.optim.AdamW(judge.parameters(), rate, weight_decay=0.05)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for step in range(steps):
            rng = np.random.default_rng([seed, step])
            rows = rng.integers(len(seen), size=batch)
            x = tensors.from_bytes(torch.from_numpy(np.stack([_seen_anew(small[i], rng) for i in rows]))).to(device)
            x = x + 0.1 * torch.rand(batch, 1, 1, 1, device=device) * torch.randn_like(x)
            answers = ([numbers[seen[i].text] for i in rows], [styles.index(seen[i].style) for i in rows])
            loss = sum(
                F.cross_entropy(logits, torch.tensor(answer, device=device))
                for logits, answer in zip(judge(x), answers, strict=True)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rates.step()
            if report:
                report(step + 1, steps)
    return judge.eval().requires_grad_(False)


def _seen_anew(pixels, rng):
    """The icon moved by up to four pixels, on white or on a colour of the captions."""
    colour = list(BACKGROUNDS.values())[rng.integers(len(BACKGROUNDS))] if rng.random() < 0.3 else (255, 255, 255)
    picture = np.pad(data.on_background(pixels, colour), ((4, 4), (4, 4), (0, 0)), mode="edge")
    top, left = rng.integers(9, size=2)
    return picture[top : top + SIZE, left : left + SIZE]
