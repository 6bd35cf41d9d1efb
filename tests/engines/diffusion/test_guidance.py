"""Classifier-free guidance: its formulas, and where it stays out of the way."""

import pytest
import torch

from engines import tensors
from engines.diffusion import schedules
from engines.diffusion.guidance import guided, interval_of_steps

SHAPE = (3, 4, 5)


class Model:
    """A denoiser that leans towards its `context (B, 7)`, and counts the rows of each evaluation."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, sigma, context, shift):
        self.rows.append(len(x))
        assert len(sigma) == len(context) == len(shift) == len(x)
        lean = context.mean(1).view(-1, 1, 1, 1)
        return (x * (1 + lean)).tanh() / (1 + sigma.view(-1, 1, 1, 1)) + lean + shift.view(-1, 1, 1, 1)


def given(batch=2):
    x = tensors.noise(range(batch), SHAPE)
    sigma = torch.full((batch,), 2.0)
    cond = {"context": 1 + tensors.noise(range(10, 10 + batch), (7,)), "shift": torch.full((batch,), 0.3)}
    uncond = {"context": torch.zeros(batch, 7), "shift": torch.full((batch,), -0.1)}
    return x, sigma, cond, uncond


def test_off_is_the_plain_model_evaluated_once():
    x, sigma, cond, uncond = given()
    model = Model()
    found = guided(model, cond, uncond, 1.0, rescale=0.7)(x, sigma)
    assert model.rows == [2]
    assert torch.equal(found, Model()(x, sigma, **cond))


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5, 7.5])
def test_guided_is_the_line_through_both(cfg_scale):
    x, sigma, cond, uncond = given()
    model = Model()
    found = guided(model, cond, uncond, cfg_scale)(x, sigma)
    assert model.rows == [4]  # both at once
    positive, negative = Model()(x, sigma, **cond), Model()(x, sigma, **uncond)
    torch.testing.assert_close(found, cfg_scale * positive + (1 - cfg_scale) * negative)


def test_guidance_of_denoised_is_guidance_of_eps():
    # Ho & Salimans, 2022, eq. 6, is written in eps with w = cfg_scale - 1.
    x, sigma, cond, uncond = given()

    def eps(extra):
        return (x - Model()(x, sigma, **extra)) / 2.0

    expected = (1 + 4.0) * eps(cond) - 4.0 * eps(uncond)
    found = (x - guided(Model(), cond, uncond, 5.0)(x, sigma)) / 2.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma, acts", [(0.5, False), (0.51, True), (2.0, True), (3.0, True), (3.01, False)])
def test_guidance_acts_inside_its_interval_alone(sigma, acts):
    x, _, cond, uncond = given()
    sigma, model = torch.full((2,), sigma), Model()
    found = guided(model, cond, uncond, 5.0, interval=(0.5, 3.0))(x, sigma)
    plain = Model()(x, sigma, **cond)
    assert model.rows == ([4] if acts else [2])
    assert torch.equal(found, plain) != acts


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescale_is_the_formula_of_lin(rescale):
    # Lin et al., 2023, algorithm 2, one picture at a time
    x, sigma, cond, uncond = given()
    positive = Model()(x, sigma, **cond)
    strong = guided(Model(), cond, uncond, 8.0)(x, sigma)
    found = guided(Model(), cond, uncond, 8.0, rescale=rescale)(x, sigma)
    for i in range(len(x)):
        factor = rescale * positive[i].std() / strong[i].std() + (1 - rescale)
        assert abs(float(factor) - 1) > 0.05
        torch.testing.assert_close(found[i], strong[i] * factor)


def test_full_rescale_has_the_spread_of_the_plain_model():
    x, sigma, cond, uncond = given()
    found = guided(Model(), cond, uncond, 8.0, rescale=1.0)(x, sigma)
    plain, strong = Model()(x, sigma, **cond), guided(Model(), cond, uncond, 8.0)(x, sigma)
    torch.testing.assert_close(found.std((1, 2, 3)), plain.std((1, 2, 3)))
    assert (strong.std((1, 2, 3)) > 1.2 * plain.std((1, 2, 3))).all()


def test_a_batch_equals_its_singles():
    x, sigma, cond, uncond = given(3)
    together = guided(Model(), cond, uncond, 6.0, rescale=0.5)(x, sigma)
    for i in range(3):
        one = [{name: value[i : i + 1] for name, value in extra.items()} for extra in (cond, uncond)]
        alone = guided(Model(), *one, 6.0, rescale=0.5)(x[i : i + 1], sigma[:1])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("start, end, guided_steps", [
    (0.0, 1.0, range(20)),
    (0.0, 0.5, range(10)),
    (0.25, 1.0, range(5, 20)),
    (0.25, 0.75, range(5, 15)),
    (0.5, 0.5, ()),
])
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_a_share_of_the_steps_is_guided(schedule, start, end, guided_steps):
    noise = schedules.DiscreteNoise(schedules.alphas_cumprod(schedules.scaled_linear_betas()))
    sigmas = schedules.by_name(schedule)(noise, 20)
    x, _, cond, uncond = given(1)
    model = Model()
    denoise = guided(model, cond, uncond, 5.0, interval=interval_of_steps(sigmas, start, end))
    for level in sigmas[:-1].tolist():  # as the samplers hand it on
        denoise(x, x.new_full((1,), level))
    assert [i for i, rows in enumerate(model.rows) if rows == 2] == list(guided_steps)
