"""Distilling latent diffusion: jumps come to where the walk of the teacher ends."""

import dataclasses
from functools import partial

import pytest
import torch

from engines import tensors
from engines.checkpoints import models
from engines.diffusion import guidance, samplers, schedules
from engines.errors import BadRequest
from engines.training import few_steps
from tests import tiny

SCALE = 3.0


def ends(trainer, count=6):
    """Where the teacher's walk of many steps ends, with guidance, and where the jumps do, from the same noise."""
    base, model = trainer.base, trainer.model.drawing()
    noise = tensors.noise(range(count), (4, 8, 8))
    around = {"concat": base.nothing_around(count, 32, 32)}
    told, nothing = base.words(["red disc 1"] * count) | around, base.words([""] * count) | around
    found = []
    for net, steps in (
        (guidance.guided(base.denoiser(), told, nothing, SCALE), 64),
        (partial(model.denoiser(), **told, guidance=torch.full((count,), SCALE)), 4),
    ):
        sigmas = schedules.sgm_uniform(base.noise, steps)
        found.append(samplers.sample_euler(net, sigmas[0] * noise, sigmas))
    return found


def test_jumps_learn_to_end_where_the_walk_does():
    wider = dataclasses.replace(tiny.FEW_STEP_RECIPE.few_steps, rank=4)
    trainer = tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, few_steps=wider, batch=8, rate=3e-3))
    (walked, jumped), loss = ends(trainer), trainer.held_out_loss(trainer.average)
    before = (walked - jumped).norm()
    for index in range(60):
        trainer.step(index, 1 - index / 60)
    with trainer.average.swapped():
        walked, jumped = ends(trainer)
    assert trainer.held_out_loss(trainer.average) < 0.8 * loss
    assert (walked - jumped).norm() < 0.9 * before


def test_nothing_is_to_be_learned_where_the_path_is_straight(monkeypatch):
    """A teacher that always sees the same picture walks straight: jumps to the same picture have no loss."""
    trainer = tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, batch=16))
    picture = torch.randn(1, 4, 8, 8)
    monkeypatch.setattr(trainer, "_guided", lambda x, sigma, scale, words: picture.expand_as(x))
    monkeypatch.setattr(trainer, "_jump", lambda weights, x, sigma, scale, words: picture.expand_as(x))
    rows, captions, _ = trainer.pictures.draw(0)
    x0 = trainer._latents(rows)
    loss, jumps = trainer.loss(x0, captions, tensors.generator(0))
    assert loss < 1e-5
    at_last = (jumps.end == 0).flatten()
    assert at_last.any() and not at_last.all()
    torch.testing.assert_close(jumps.landed()[at_last], picture.expand_as(x0)[at_last])
    monkeypatch.setattr(trainer, "_jump", lambda weights, x, sigma, scale, words: picture.expand_as(x) + 0.5)
    assert trainer.loss(x0, captions, tensors.generator(0))[0] > 0.01


def test_a_teacher_that_learned_with_dropout_is_distilled_without():
    unet = dataclasses.replace(tiny.UNET, dropout=0.5)
    base = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, unet=unet)).model.eval()
    base.name, base.sha256 = "walker", f"{1:064x}"
    with torch.no_grad():
        base.unet.out[2].weight.normal_()  # a new net is zero at its end
    trainer = few_steps.FewStepTrainer(tiny.FEW_STEP_RECIPE, tiny.examples(), base)
    rows, captions, _ = trainer.pictures.draw(0)
    found = [trainer.loss(trainer._latents(rows), captions, tensors.generator(0))[1].found for _ in range(2)]
    assert torch.equal(*found)


def test_every_row_steps_inside_its_stretch():
    trainer = tiny.few_step_trainer()
    sigma, lower, end = (level.flatten() for level in trainer._levels(400, tensors.generator(0)))
    edges = trainer.edges
    starts = torch.stack([edges[:-1][edges[1:] == last][0] for last in end])
    assert (end <= lower).all() and (lower < sigma).all() and (sigma <= starts * (1 + 1e-5)).all()
    share = torch.isclose(sigma, starts).float().mean()
    assert abs(share - trainer.recipe.at_start) < 0.1
    assert {round(float(last), 3) for last in end} == {round(float(last), 3) for last in edges[1:]}


def test_a_discriminator_learns_where_jumps_land_and_pulls_as_hard_as_the_teacher():
    recipe = dataclasses.replace(tiny.FEW_STEP_RECIPE, batch=16, adversarial_weight=1.0)
    trainer = tiny.few_step_trainer(recipe)
    rows, captions, _ = trainer.pictures.draw(0)
    x0 = trainer._latents(rows)
    told = []
    for index in range(40):
        draw = tensors.generator(index)
        loss, jumps = trainer.loss(x0, captions, draw)
        _, fake, real = trainer.compared(x0, jumps, draw)
        told.append(trainer.adversary.learn(real, fake, 1.0))
    assert told[0] == pytest.approx(1, abs=0.1)  # of one that knows nothing
    assert sum(told[-5:]) / 5 < 0.9
    draw = tensors.generator(0)
    loss, jumps = trainer.loss(x0, captions, draw)
    pull = few_steps._as_strong(trainer.compared(x0, jumps, draw)[0], loss, jumps)
    pulls = [torch.autograd.grad(part, jumps.found, retain_graph=True)[0].norm() for part in (loss, pull)]
    torch.testing.assert_close(*pulls, rtol=1e-2, atol=0)


def test_a_discriminator_sees_jumps_and_pictures_at_the_same_noise():
    """Jumps that land on the pictures themselves cannot be told from them, whatever the discriminator knows."""
    trainer = tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, batch=64, adversarial_weight=1.0))
    x0, end = torch.zeros(64, 4, 8, 8), trainer.edges[1:].repeat(16).view(-1, 1, 1, 1)
    sigma = end + 1
    landed = end * torch.randn(x0.shape, generator=tensors.generator(1))
    x = torch.randn(x0.shape, generator=tensors.generator(2))
    found = (x - (x - landed) * sigma / (sigma - end)).requires_grad_()
    jumps = few_steps.Jumps(x, sigma, end, found)
    torch.testing.assert_close(jumps.landed(), landed, rtol=1e-3, atol=1e-4)
    _, fake, real = trainer.compared(x0, jumps, tensors.generator(0))
    assert torch.equal(fake[:, -1], real[:, -1])
    for stretch in range(4):
        here = slice(stretch, None, 4)
        assert fake[here, :-1].detach().std() == pytest.approx(real[here, :-1].std().item(), rel=0.1)


def listening(reward_weight=0.5, **recipe):
    recipe = dataclasses.replace(tiny.FEW_STEP_RECIPE, reward_weight=reward_weight, **recipe)
    return tiny.few_step_trainer(recipe, reader=tiny.reader(steps=30))


def test_jumps_learn_to_be_read_rightly():
    trainer = listening(4.0, batch=8, rate=3e-3, reward_noise=0.0)
    before = {name: value.clone() for name, value in trainer.reader.clip.state_dict().items()}
    rows, captions, _ = trainer.pictures.draw(0)
    x0 = trainer._latents(rows)

    @torch.no_grad()
    def misread():
        jumps = trainer.loss(x0, captions, tensors.generator(0))[1]
        return trainer.reader.misread(jumps.found, rows, captions, tensors.generator(0))

    first = misread()
    for index in range(40):
        row = trainer.step(index, 1.0)
    assert misread() < 0.9 * first and row["misread"] > 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.reader.clip.state_dict().items())


@pytest.mark.parametrize("weight, reader, sentence", [
    (0.5, None, "listens to a CLIP: name one with --text"),
    (0.0, "a CLIP", "has no use for --text"),
])  # fmt: skip
def test_a_reader_that_is_lacking_or_not_asked_is_refused(weight, reader, sentence):
    with pytest.raises(BadRequest, match=sentence):
        tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, reward_weight=weight), reader=reader)


def test_the_teacher_stays_as_it_is():
    trainer = tiny.few_step_trainer()
    before = {name: value.clone() for name, value in trainer.base.state_dict().items()}
    for index in range(3):
        trainer.step(index, 1.0)
        trainer.samples()  # which must leave what learns as it is, too
    assert all(parameter.requires_grad for parameter in (*trainer.model.up.values(), trainer.model.guidance.weight))
    assert all(torch.equal(value, before[name]) for name, value in trainer.base.state_dict().items())
    assert all(parameter.any() for parameter in trainer.model.up.values())


def test_a_model_of_another_size_is_refused():
    with pytest.raises(BadRequest, match="“walker” draws pictures of 32 pixels, the recipe is for 64"):
        tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, size=64))


def of_rank(rank, **options):
    shape = dataclasses.replace(tiny.FEW_STEP_RECIPE.few_steps, rank=rank)
    return tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, few_steps=shape), **options)


@pytest.mark.parametrize("rank", [2, 5])
def test_what_was_learned_is_gone_on_from_at_a_rank_that_may_grow(rank, tmp_path):
    begun = tiny.few_step_trainer()
    for index in range(3):
        begun.step(index, 1.0)
    begun.export(tmp_path / "model.safetensors")
    start = models.load(tmp_path / "model.safetensors", begun.base, drawing=False)
    before = start.weights()
    trainer = of_rank(rank, start=start)
    after = trainer.model.weights()
    assert trainer.model.config.rank == rank
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, msg=name)
    assert not torch.equal(after["out.2.weight"], begun.base.unet.state_dict()["out.2.weight"])
    trainer.step(0, 1.0)
    assert not torch.equal(trainer.model.weights()["out.2.weight"], after["out.2.weight"])


def test_what_was_learned_is_gone_on_from_with_a_teacher_that_was_trained_on():
    begun = tiny.few_step_trainer()
    begun.step(0, 1.0)
    walker = tiny.diffusion_trainer(start=tiny.latent_diffusion())
    walker.step(0, 1.0)
    teacher = walker.model.eval()
    teacher.name, teacher.sha256 = "walker", f"{3:064x}"
    trainer = few_steps.FewStepTrainer(tiny.FEW_STEP_RECIPE, tiny.examples(), teacher, start=begun.model)
    added = {name: weight - begun.base.unet.state_dict()[name] for name, weight in begun.model.weights().items()
             if name in begun.base.unet.state_dict()}  # fmt: skip
    for name, weight in teacher.unet.state_dict().items():
        torch.testing.assert_close(trainer.model.weights()[name], weight + added[name], msg=name)
    assert trainer.model.base.sha256 == teacher.sha256 != begun.base.sha256


def test_a_teacher_of_another_shape_is_refused():
    begun = tiny.few_step_trainer().model
    begun.name = "quick"
    unet = dataclasses.replace(tiny.UNET, num_res_blocks=2)
    other = tiny.diffusion_trainer(dataclasses.replace(tiny.RECIPE, unet=unet)).model
    other.name, other.sha256 = "other", f"{4:064x}"
    with pytest.raises(BadRequest, match="another shape than that of “other”"):
        few_steps.FewStepTrainer(tiny.FEW_STEP_RECIPE, tiny.examples(), other, start=begun)


@pytest.mark.parametrize("change, sentence", [
    ({"rank": 5}, "“quick” has rank 5, the recipe rank 2"),
    ({"steps": 8}, "has steps 8"),
    ({"scales": (1.0, 6.0)}, r"has scales \(1.0, 6.0\)"),
    ({"guidance_dim": 16}, "has guidance_dim 16"),
])  # fmt: skip
def test_what_was_learned_for_other_jumps_is_not_gone_on_from(change, sentence):
    shape = dataclasses.replace(tiny.FEW_STEP_RECIPE.few_steps, **change)
    start = tiny.few_step_trainer(dataclasses.replace(tiny.FEW_STEP_RECIPE, few_steps=shape)).model
    start.name = "quick"
    with pytest.raises(BadRequest, match=sentence):
        tiny.few_step_trainer(start=start)
