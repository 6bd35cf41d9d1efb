"""What trainers have in common, whatever they learn, and what those on captioned pictures have beside it."""

import torch

from engines.checkpoints import models
from engines.training.captioned import CaptionedLatents
from engines.training.loop import MovingAverage, load_optimizer_state, optimizer_state


class Trainer:
    """Learns one model by one loss, with moving averages of it; one of them, `average`, is what the run is for.

    A subclass has a `recipe` with `rate` and `ema_decays`, and its `device` and `card`; it makes `model` and calls
    `begin`, and `learn` with the loss of each step.
    """

    model = None
    precision = "auto"  # one of runtime.PRECISIONS
    betas = (0.9, 0.99)
    weight_decay = 0.01

    def begin(self):
        """Set out from the model as it is, with its moving averages and its optimizers."""
        self.averages = [MovingAverage(self.model, decay) for decay in self.recipe.ema_decays]
        self.average = self.averages[0]
        self.optimizers = self.new_optimizers([p for p in self.model.parameters() if p.requires_grad])

    def new_optimizers(self, parameters):
        """A list of optimizers that share the learned `parameters` of the model among them."""
        return [torch.optim.AdamW(parameters, self.recipe.rate, betas=self.betas, weight_decay=self.weight_decay)]

    def learn(self, loss, index, rate_share):
        """Step `index` down the gradient of the scalar `loss`, at that share of the peak learning rate."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate * rate_share
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        for average in self.averages:
            average.update(index)

    def state(self):
        return {
            "model": models.own_weights(self.model),
            "averages": {str(i): average.values for i, average in enumerate(self.averages)},
            "optimizers": {str(i): optimizer_state(optimizer) for i, optimizer in enumerate(self.optimizers)},
        }

    def load_state(self, state):
        models.load_own_weights(self.model, state["model"])
        for i, average in enumerate(self.averages):
            average.load(state["averages"][str(i)])
        for i, optimizer in enumerate(self.optimizers):
            load_optimizer_state(optimizer, state["optimizers"][str(i)])

    def export(self, path):
        """The averaged weights in float16, with configuration and card."""
        with self.average.swapped():
            models.save(path, self.model, self.card)


class CaptionedTrainer(Trainer):
    """Learns the pictures that are not held out, in the encoding of the autoencoder `first_stage`."""

    every_held_out = 250  # steps between two looks at the pictures that are

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, report=None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.card = recipe, torch.device(device), card or {}
        self.batch = recipe.batch
        self.first_stage = first_stage.to(self.device).eval()
        self.pictures = CaptionedLatents(recipe, examples, self.first_stage, self.device, report)

    def looks(self, index):
        """Whether step `index` ends with a look at the held-out pictures."""
        return bool(self.pictures.held_out) and (index + 1) % self.every_held_out == 0

    def held_out_loss(self, average):
        """The loss of the weights of a moving average on held-out pictures; the same for the same weights."""
        raise NotImplementedError

    def choose(self):
        """Go by the moving average that does best on the held-out pictures; returns its loss."""
        losses = [self.held_out_loss(average) for average in self.averages]
        self.average = self.averages[losses.index(min(losses))]
        return min(losses)

    def export(self, path):
        if self.pictures.held_out and len(self.averages) > 1:
            self.choose()
        self.card["moving average"] = self.average.decay
        super().export(path)
