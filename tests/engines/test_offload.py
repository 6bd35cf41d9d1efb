"""Parts that take turns on a device: one is there at a time, while it works, and pictures are what they were."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engines import catalog, requests
from engines.checkpoints import models
from engines.engine import Engine
from engines.errors import AtelierError, Cancelled
from engines.tasks.generate import generate
from tests import peers, tiny
from tests.engines.checkpoints.test_stable_diffusion import CONTEXT, WORDS, write_vocabulary
from tests.engines.test_additions import a_lora


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model = tiny.latent_diffusion()
    tiny.save(home / "models" / "painter.safetensors", model)
    save_file(a_lora(model, 0), home / "models" / "ink.safetensors")
    save_file({"emb_params": torch.ones(2, 24)}, home / "models" / "hue.safetensors")
    return home


class Elsewhere:
    """Stands for a device beside the machine's memory: what is there lies at another place, and is watched."""

    def __init__(self, model):
        self.model, self.home, self.seen = model, self.places(model), []
        model.take_turns("cpu")
        model.offload.there = torch.Tensor.clone
        for name in ("unet", "text", "first_stage.encoder", "first_stage.decoder"):
            model.get_submodule(name).register_forward_hook(lambda *_, name=name: self.look(name.partition(".")[0]))

    @staticmethod
    def places(model):
        return {name: value.data_ptr() for name, value in model.state_dict().items()}

    def away(self):
        """The tensors that are on the device."""
        return {name for name, place in self.places(self.model).items() if place != self.home[name]}

    def look(self, part):
        self.seen.append(part)
        assert self.away() >= {name for name in self.home if name.startswith(f"{part}.")}
        assert {name.partition(".")[0] for name in self.away()} <= {part, *self.lent}

    lent = ()  # parts with weights that are others than their own


@pytest.fixture
def engines(home):
    """Two of one home: the painter's parts take turns in the second, and what watches them."""
    plain, turning = Engine(home, "cpu"), Engine(home, "cpu")
    return plain, turning, Elsewhere(turning.load(catalog.find("painter", home=home)))


def pixels(result):
    return [np.asarray(picture.image).tobytes() for picture in result.pictures]


def inpainting():
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[20:40, 20:40] = 255
    picture, hole = tiny.png(tiny.picture(64, 64)), tiny.png(tiny.Image.fromarray(mask))
    return requests.InpaintRequest(model="painter", prompt="disc", image=picture, mask=hole, steps=2)


def test_one_part_is_there_at_a_time_and_the_picture_is_the_same_to_the_bit(engines):
    plain, turning, elsewhere = engines
    for asked in (tiny.request(model="painter", count=2), inpainting()):
        elsewhere.seen.clear()
        assert pixels(turning.run(asked)) == pixels(plain.run(asked))
        assert set(elsewhere.seen) == {"text", "unet", "first_stage"} and not elsewhere.away()


@pytest.mark.parametrize("prompt", ["red disc <lora:ink:0.8>", "red disc embedding:hue"])
def test_what_a_prompt_names_changes_them_and_goes_again(engines, prompt):
    plain, turning, elsewhere = engines
    elsewhere.lent = "unet", "text"
    asked, without = (tiny.request(model="painter", prompt=text) for text in (prompt, "red disc"))
    changed = pixels(turning.run(asked))
    assert changed == pixels(plain.run(asked)) and not elsewhere.away()
    assert changed != pixels(turning.run(without)) == pixels(plain.run(without))


def test_another_autoencoder_can_draw(engines, home):
    plain, turning, elsewhere = engines
    elsewhere.lent = ("unet",)
    asked = tiny.request(model="painter")
    model = turning.load(catalog.find("painter", home=home))
    with model.offload:
        other = model.drawing_with(tiny.kl())
        expected = plain.load(catalog.find("painter", home=home)).drawing_with(tiny.kl())
        assert pixels(generate(asked, other)) == pixels(generate(asked, expected))
    assert not elsewhere.away()


@pytest.mark.parametrize("failure", [Cancelled(), torch.OutOfMemoryError("no")], ids=["cancelled", "out of memory"])
def test_all_are_at_home_again_however_a_task_ends(engines, failure, monkeypatch):
    plain, turning, elsewhere = engines
    asked = tiny.request(model="painter")

    def stop(progress):
        raise failure

    with pytest.raises((Cancelled, AtelierError)):
        turning.run(asked, stop)
    assert elsewhere.seen and not elsewhere.away()
    assert pixels(turning.run(asked)) == pixels(plain.run(asked))


def test_a_part_that_did_not_come_whole_comes_anew(engines):
    plain, turning, elsewhere = engines
    asked, moved = tiny.request(model="painter", cfg_scale=1.0), []
    last = list(elsewhere.model.unet.parameters())[-1].data_ptr()

    def there(tensor):
        moved.append(tensor.data_ptr())
        if moved.count(last) == 1 and moved[-1] == last:  # all but one are there
            raise torch.OutOfMemoryError("no")
        return tensor.clone()

    elsewhere.model.offload.there = there
    result = turning.run(asked)
    assert result.note.startswith("Memory was short") and moved.count(last) > 1
    assert pixels(result) == pixels(plain.run(asked)) and not elsewhere.away()


def test_a_stable_diffusion_takes_turns_where_there_is_no_room_for_it(tmp_path):
    path, vocabulary = tmp_path / "sd", write_vocabulary(tmp_path)
    peers.pipeline(
        vocabulary, CONTEXT, vocab_size=len(WORDS), intermediate_size=128, eos_token_id=len(WORDS) - 1
    ).save_pretrained(path)
    whole = models.load(path)
    size = sum(value.nbytes for value in whole.state_dict().values())
    assert whole.offload is None and models.load(path, room=size).offload is None
    assert models.load(path, precision=torch.bfloat16, room=size - 1).offload is None  # of which it takes less
    turning = models.load(path, room=size - 1)
    assert turning.offload is not None and turning.device == whole.device
    asked = tiny.request(prompt="red fox")
    assert pixels(generate(asked, turning)) == pixels(generate(asked, whole))


def test_a_model_that_draws_with_the_autoencoder_of_others_is_never_taken_apart(home):
    first_stage = models.load(home / "models" / "mirror.safetensors")
    assert models.load(home / "models" / "painter.safetensors", first_stage, room=0).offload is None
