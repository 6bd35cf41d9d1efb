"""The other side of adversarial training: a discriminator that learns beside what it judges (Goodfellow, 2014)."""

import torch

from engines.training import losses
from engines.training.loop import load_optimizer_state, optimizer_state


class Adversary:
    """A `discriminator` with its optimizer; `kind`, one of `losses.ADVERSARIAL`, is the game that is played."""

    def __init__(self, discriminator, rate, kind="hinge"):
        self.discriminator, self.rate = discriminator, rate
        self.generator_loss, self.discriminator_loss = losses.ADVERSARIAL[kind]
        self.optimizer = torch.optim.AdamW(discriminator.parameters(), rate, betas=(0.5, 0.9))

    def fooled(self, fake):
        """The loss of who made `fake`, which is told from what is real; the discriminator learns nothing by it."""
        self.discriminator.requires_grad_(False)
        loss = self.generator_loss(self.discriminator(fake).float())
        self.discriminator.requires_grad_(True)
        return loss

    def learn(self, real, fake, rate_share):
        """A step of the discriminator at that share of its peak learning rate; returns its loss."""
        loss = self.discriminator_loss(*(self.discriminator(seen).float() for seen in (real, fake.detach())))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def state(self):
        return {"discriminator": self.discriminator.state_dict(), "opponent": optimizer_state(self.optimizer)}

    def load_state(self, state):
        self.discriminator.load_state_dict(state["discriminator"])
        load_optimizer_state(self.optimizer, state.get("opponent", {}))
