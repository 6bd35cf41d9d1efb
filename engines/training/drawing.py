"""What the training of models that draw from words has in common, whatever they draw by."""

from dataclasses import replace

import torch

from engines import tensors
from engines.pictures import grid
from engines.training.captioned import shown_captions
from engines.training.loop import fingerprint
from engines.training.trainer import CaptionedTrainer


class DrawingTrainer(CaptionedTrainer):
    """Learns to draw the pictures from their captions.

    `reader` is a trained CLIP, or a model that draws, whose tokenizer and text encoder the model takes over
    and goes on training; without one it learns words anew. `start` is a model to go on from. A subclass
    names its model class and its net, and says how a new config is made, what the loss of a batch is and
    how to draw.
    """

    model_class = None
    net = ""  # the attribute of the model that draws; the rest is its text encoder

    def __init__(self, recipe, examples, first_stage, device="cpu", card=None, start=None, reader=None, report=None):
        super().__init__(recipe, examples, first_stage, device, card, report)
        self.model = self._model(start, reader).to(self.device)
        self.prepare(is_new=start is None)
        self.begin()

    def new_config(self, tokenizer, text):
        """The config of a new model that reads by `tokenizer`, its JSON, and a text encoder of the config `text`."""
        raise NotImplementedError

    def config_of(self, start):
        """The config of a model to go on from."""
        return start.config

    def prepare(self, is_new):
        """Bring the encoded pictures into the form that the loss takes, and a net that `is_new` into its first."""
        raise NotImplementedError

    def loss(self, rows, captions, rng):
        """The loss of a batch, a scalar; `rng` draws what it needs of chance beside torch's own generator."""
        raise NotImplementedError

    def loss_of_held_out(self, rows, captions):
        """The same at fixed times and with fixed chance."""
        raise NotImplementedError

    def draw(self, words, nothing):
        """Pictures `(B, 3, H, W)` of conditionings on words and on none, from seeds counting up from 0."""
        raise NotImplementedError

    def _model(self, start, reader):
        """A model to train: new, or with the net of `start`; its words those of `reader`, of `start`, or new."""
        if start is None:
            tokenizer, text = self.pictures.vocabulary()
            if reader is not None:
                tokenizer, text = reader.tokenizer, reader.config.text
            config = self.new_config(tokenizer.to_json(), text)
        else:
            config = self.config_of(start)
            if reader is not None:
                config = replace(config, text=reader.config.text, tokenizer=reader.config.tokenizer)
        model = self.model_class(config, self.first_stage)
        if start is not None:
            getattr(model, self.net).load_state_dict(getattr(start, self.net).state_dict())
        words = reader or start
        if words is not None:
            model.text.load_state_dict(words.text.state_dict())
        return model

    def step(self, index, rate_share):
        for part in (getattr(self.model, self.net), self.model.text):  # the autoencoder is not in training
            part.train()
        loss = self.loss(*self.pictures.draw(index))
        self.learn(loss, index, rate_share)
        row = {"loss": loss.item()}
        if self.looks(index):
            row["held-out loss"] = self.choose()
        return row

    @torch.no_grad()
    def held_out_loss(self, average):
        self.model.eval()
        rows = self.pictures.held_out
        with average.swapped():
            return self.loss_of_held_out(rows, [row.caption() for row in rows]).item()

    @torch.no_grad()
    def samples(self):
        """Eight pictures of fixed words by the averaged weights."""
        self.model.eval()
        captions = shown_captions()
        with self.average.swapped():
            drawn = self.draw(self.model.words(captions), self.model.words([""] * len(captions)))
            return grid(tensors.to_images(drawn), 4)

    def fingerprint(self):
        """What a run must keep to be continued: the shape of the net, the words and the autoencoder."""
        config, net = self.model.config, getattr(self.model, self.net)
        return fingerprint(
            net.config, config.text, config.tokenizer, self.recipe.ema_decays, self.first_stage.state_dict()
        )
