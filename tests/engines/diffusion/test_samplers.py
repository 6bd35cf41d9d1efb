"""Samplers against exact answers, beside diffusers' on the same noise, and what must hold of each."""

import math
import types

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_lms_discrete

from engines import errors, requests, tensors
from engines.diffusion import samplers, schedules
from engines.diffusion.denoisers import EpsDenoiser
from engines.diffusion.samplers import SAMPLERS
from tests.oracles import Mixture

# diffusers hands tensors to NumPy as versions before 2 had it.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

DATA = Mixture(weights=(0.5, 0.3, 0.2), means=(-1.0, 0.2, 1.5), stds=(0.2, 0.3, 0.1))
NOISY = ("euler_ancestral", "ddpm", "dpmpp_2m_sde", "lcm")  # those that draw fresh noise unasked


def levels(steps, high=5.0):
    """Sigmas that fall to 0 like those of Karras et al., with no gap before the last step."""
    return torch.linspace(high ** (1 / 7), 0, steps + 1, dtype=torch.float64) ** 7


def fresh(shape, seed=0, dtype=torch.float64):
    generator = tensors.generator(seed)
    return lambda sigma, sigma_next: torch.randn(shape, generator=generator, dtype=dtype)


def run(name, model, x, sigmas, **options):
    return SAMPLERS[name](model, x, sigmas, noise_sampler=fresh(x.shape, dtype=x.dtype), **options)


# ---------------------------------------------------------------- exact answers


def test_the_oracle_agrees_with_itself():
    # Tweedie's formula, E[x0 | x] = x + sigma^2 d/dx log p(x), with p the slope of the oracle's other answer.
    sigma = torch.tensor([0.1, 0.7, 5.0], dtype=torch.float64)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).repeat(3, 1).requires_grad_()
    density, = torch.autograd.grad(DATA.cdf(x, sigma).sum(), x, create_graph=True)
    score, = torch.autograd.grad(density.log().sum(), x)
    torch.testing.assert_close(DATA.denoised(x, sigma), x + sigma[:, None] ** 2 * score, rtol=1e-6, atol=1e-6)


# The corrector of UniPC gains an order on its predictor (Zhao et al., 2023, theorem 3.1).
@pytest.mark.parametrize(
    "name, order",
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm_2", 2), ("dpmpp_2m", 2), ("unipc", 3)],
)
def test_the_error_falls_at_the_samplers_order(name, order):
    coarse, fine = flow_error(name, 32), flow_error(name, 128)
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.25)


def test_the_error_of_lms_falls_faster_than_that_of_its_start():
    # Its first step is Euler's, which leaves an error of second order whatever follows.
    assert math.log(flow_error("lms", 32) / flow_error("lms", 128), 4) > 2.5


@pytest.mark.parametrize("name, error", [
    ("euler", 5e-3), ("ddim", 5e-3), ("heun", 2e-4), ("dpm_2", 2e-4), ("lms", 1e-4), ("dpmpp_2m", 2e-4), ("unipc", 2e-5)
])
def test_many_steps_reach_the_end_of_the_probability_flow(name, error):
    assert flow_error(name, 128) < error


def flow_error(name, steps):
    # How far samples stray from the share of all data that they began with.
    sigmas, x = levels(steps), torch.linspace(-8, 8, 41, dtype=torch.float64).view(1, -1)
    x0 = run(name, DATA.denoised, x, sigmas)
    return float((DATA.cdf(x0, 0) - DATA.cdf(x, sigmas[0])).abs().mean())


@pytest.mark.parametrize("name, options", [
    ("euler_ancestral", {}), ("ddpm", {}), ("ddim", {"eta": 1.0}), ("ddim", {"eta": 0.5}), ("dpmpp_2m_sde", {})
])
def test_noisy_samplers_draw_from_the_data(name, options):
    sigmas = levels(150)
    x = DATA.draw((1, 8000), float(sigmas[0]), tensors.generator(1))
    x0 = run(name, DATA.denoised, x, sigmas, **options)
    # Three standard errors are 0.03, 0.03 and 0.017; what is left is for the size of the steps.
    assert float(x0.mean()) == pytest.approx(DATA.mean, abs=0.05)
    assert float(x0.var()) == pytest.approx(DATA.variance, abs=0.05)
    for valley in (-0.45, 1.15):  # between the Gaussians: the shares to their left are the weights
        valley = torch.tensor([valley], dtype=torch.float64)
        assert float((x0 < valley).double().mean()) == pytest.approx(float(DATA.cdf(valley, 0)), abs=0.02)


GAUSSIAN = Mixture(weights=(1.0,), means=(0.7,), stds=(0.5,))


def consistency(x, sigma):
    """Where the probability flow of `GAUSSIAN` takes x: its distance from the mean shrinks like the spread."""
    spread = (0.5**2 + sigma**2).sqrt().view(-1, 1)
    return 0.7 + (x - 0.7) * 0.5 / spread


def test_many_steps_of_a_gaussian_reach_its_closed_form():
    sigmas, x = levels(200), torch.linspace(-8, 8, 41, dtype=torch.float64).view(1, -1)
    torch.testing.assert_close(
        run("heun", GAUSSIAN.denoised, x, sigmas), consistency(x, sigmas[:1]), rtol=0, atol=1e-3
    )


def test_lcm_takes_a_consistency_function_at_its_word():
    sigmas, x = levels(1), torch.linspace(-8, 8, 41, dtype=torch.float64).view(1, -1)
    torch.testing.assert_close(run("lcm", consistency, x, sigmas), consistency(x, sigmas[:1]), rtol=0, atol=0)


@pytest.mark.parametrize("steps", [2, 4, 30])
def test_lcm_draws_from_the_data_of_a_consistency_function(steps):
    # However few the steps: each one ends on the data, and the next starts from all the noise of its level.
    sigmas = levels(steps)
    x = GAUSSIAN.draw((1, 8000), float(sigmas[0]), tensors.generator(1))
    x0 = run("lcm", consistency, x, sigmas)
    assert float(x0.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(x0.std()) == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_to_zero_is_what_the_model_saw(name):
    sigmas, x = levels(1), torch.linspace(-8, 8, 41, dtype=torch.float64).view(1, -1)
    torch.testing.assert_close(run(name, DATA.denoised, x, sigmas), DATA.denoised(x, sigmas[:1]))


# ---------------------------------------------------------------- beside the peer

BETAS = schedules.linear_betas()
NOISE = schedules.DiscreteNoise(schedules.alphas_cumprod(BETAS))
STEPS = 20
# Levels that are whole training steps, for some of the peers know no others.
SETTINGS = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing")
VP = (diffusers.DPMSolverMultistepScheduler, diffusers.DDIMScheduler, diffusers.DDPMScheduler,
      diffusers.UniPCMultistepScheduler, diffusers.LCMScheduler)

# Each row: our sampler and its options, the peer's scheduler and its settings, further arguments of its `step`.
PEERS = {
    "euler": ("euler", {}, diffusers.EulerDiscreteScheduler, {}, {}),
    "euler_ancestral": ("euler_ancestral", {}, diffusers.EulerAncestralDiscreteScheduler, {}, {}),
    "heun": ("heun", {}, diffusers.HeunDiscreteScheduler, {}, {}),
    "dpm_2": ("dpm_2", {}, diffusers.KDPM2DiscreteScheduler, {}, {}),
    "lms": ("lms", {}, scheduling_lms_discrete.LMSDiscreteScheduler, {}, {}),
    "lms of order 2": ("lms", {"order": 2}, scheduling_lms_discrete.LMSDiscreteScheduler, {}, {"order": 2}),
    # Below 15 steps the peer also lowers the order of the last step but one.
    "dpmpp_2m": ("dpmpp_2m", {}, diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}, {}),
    "dpmpp_2m_sde": (
        "dpmpp_2m_sde", {}, diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}
    ),
    "ddim": ("ddim", {}, diffusers.DDIMScheduler, {"clip_sample": False}, {}),
    "ddim, eta 0.5": ("ddim", {"eta": 0.5}, diffusers.DDIMScheduler, {"clip_sample": False}, {"eta": 0.5}),
    "ddim, eta 1": ("ddim", {"eta": 1.0}, diffusers.DDIMScheduler, {"clip_sample": False}, {"eta": 1.0}),
    "ddpm": ("ddpm", {}, diffusers.DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}, {}),
    "unipc": ("unipc", {}, diffusers.UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}, {}),
    # The peer mixes the boundary condition of a consistency model into the scheduler; with times scaled up it is 1.
    "lcm": (
        "lcm", {}, diffusers.LCMScheduler, {"original_inference_steps": STEPS, "timestep_scaling": 1000.0}, {}
    ),
}


def eps_net(x, t):
    """The ideal net of `DATA`: the mean noise in `x (B, ...)`, variance preserving, at training times `t (B,)`."""
    sigma = NOISE.sigma(t)
    rows = sigma.view(-1, *[1] * (x.ndim - 1))
    x = x * (1 + rows**2).sqrt()
    return (x - DATA.denoised(x, sigma)) / rows


@pytest.fixture(autouse=True)
def integrals(monkeypatch):
    # The peer's LMS integrates its polynomials, of degree 3 at most, with scipy, which is none of our
    # dependencies; for them eight points of Gauss and Legendre are exact.
    points, weights = np.polynomial.legendre.leggauss(8)

    def quad(f, low, high, **_):
        low, high = float(low), float(high)
        values = [float(f((low + high) / 2 + (high - low) / 2 * point)) for point in points]
        return (high - low) / 2 * float(weights @ values), 0.0

    monkeypatch.setattr(scheduling_lms_discrete, "integrate", types.SimpleNamespace(quad=quad), raising=False)


def trajectory_of_peer(scheduler, n, sigmas, **arguments):
    """The peer's states after each step, in the variance-exploding frame."""
    preserving = isinstance(scheduler, VP)
    scale = (1 + sigmas**2).sqrt() if preserving else torch.ones_like(sigmas)
    x, states = n * sigmas[0] / scale[0], []
    for t in scheduler.timesteps:
        eps = eps_net(scheduler.scale_model_input(x, t), t.expand(len(x)).float())
        x = scheduler.step(eps, t, x, **arguments).prev_sample
        states.append(x)
    if scheduler.order == 2:  # two evaluations a step, and one in the last
        states = states[1::2] + states[-1:]
    return torch.stack(states) * scale[1:].view(-1, *[1] * n.ndim)


def trajectory(name, n, sigmas, **options):
    states = []
    x = SAMPLERS[name](EpsDenoiser(eps_net, NOISE), n * sigmas[0], sigmas, callback=lambda step: states.append(step.x),
                       **options)
    return torch.stack([*states[1:], x])


@pytest.mark.parametrize("case", PEERS)
def test_trajectory_equals_the_peers(case):
    name, options, kind, settings, arguments = PEERS[case]
    scheduler = kind(**SETTINGS | settings)
    scheduler.set_timesteps(STEPS)
    sigmas, n = schedules.simple(NOISE, STEPS), tensors.noise([0, 1], (4, 6, 5))
    if name in NOISY or options.get("eta"):  # both sides draw the same noise, one tensor a step
        arguments = arguments | {"generator": tensors.generator(7)}
        options = options | {"noise_sampler": fresh(n.shape, 7, torch.float32)}
    expected = trajectory_of_peer(scheduler, n, sigmas, **arguments)
    found = trajectory(name, n, sigmas, **options)
    assert found.shape == expected.shape == (STEPS, *n.shape)
    for step in range(STEPS):
        assert (found[step] - expected[step]).norm() / expected[step].norm() < 1e-4, f"step {step + 1}"
    assert float(found[-1].std()) == pytest.approx(DATA.variance**0.5, rel=0.25)  # both ended on the data


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_step_is_reported_with_what_it_began_with(name):
    sigmas, x, seen = levels(5), torch.randn(2, 3, 4, generator=tensors.generator(0)).double() * 5, []
    x0 = run(name, DATA.denoised, x, sigmas, callback=seen.append)
    assert [(step.index, step.count) for step in seen] == [(i, 5) for i in range(1, 6)]
    assert [step.sigma for step in seen] == sigmas[:-1].tolist()
    assert torch.equal(seen[0].x, x)
    torch.testing.assert_close(seen[0].denoised, DATA.denoised(x, sigmas[0]))
    torch.testing.assert_close(seen[-1].denoised, x0)  # the last step ends on what the model saw in it


@pytest.mark.parametrize("name", SAMPLERS)
def test_cancelling_stops_within_the_step(name):
    evaluations, reported = [], []

    def model(x, sigma):
        evaluations.append(float(sigma[0]))
        return DATA.denoised(x, sigma)

    def cancel(step):
        reported.append(step.index)
        if step.index == 2:
            raise errors.Cancelled

    sigmas = levels(6)
    with pytest.raises(errors.Cancelled):
        run(name, model, torch.zeros(1, 3, dtype=torch.float64), sigmas, callback=cancel)
    assert reported == [1, 2]
    assert min(evaluations) >= float(sigmas[2])  # nothing of the third step, which begins at the level that it ends


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_equals_its_singles(name):
    sigmas, seeds = levels(8), [3, 0, 9]

    def model(x, sigma):  # its values lean on each other within a picture, and on its row of sigma
        return DATA.denoised(x + x.flatten(1).mean(1).view(-1, 1, 1, 1).tanh(), sigma)

    def draw(seeds):
        noise_sampler = samplers.noise_sampler_from_seeds(seeds, (2, 4, 4))
        return SAMPLERS[name](model, tensors.noise(seeds, (2, 4, 4)) * 5, sigmas, noise_sampler=noise_sampler)

    torch.testing.assert_close(draw(seeds), torch.cat([draw([seed]) for seed in seeds]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("name", SAMPLERS)
def test_numbers_that_overflow_are_refused(name, broken):
    sigmas = levels(5)

    def model(x, sigma):
        return DATA.denoised(x, sigma) if sigma[0] > 0.5 * sigmas[1] else x * broken

    first = 2 if name in ("heun", "dpm_2") else 3  # they look ahead, into the level where it breaks
    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(errors.AtelierError, match=f"overflowed in step {first} of 5"):
        run(name, model, x, sigmas)


@pytest.mark.parametrize("name", NOISY)
def test_a_sampler_that_needs_noise_says_so(name):
    x = torch.zeros(1, 3)
    with pytest.raises(TypeError, match="pass it a noise_sampler"):
        SAMPLERS[name](DATA.denoised, x, levels(3))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in NOISY])
def test_the_others_need_no_noise_and_repeat_themselves(name):
    x, sigmas = torch.randn(1, 7, generator=tensors.generator(0)) * 5, levels(6)
    assert torch.equal(SAMPLERS[name](DATA.denoised, x, sigmas), SAMPLERS[name](DATA.denoised, x, sigmas))


def test_fresh_noise_is_each_pictures_own_and_never_its_first():
    shape = (3, 4)
    draw = samplers.noise_sampler_from_seeds([5, 6], shape)
    alone = samplers.noise_sampler_from_seeds([6], shape)
    first, second = draw(1.0, 0.5), draw(0.5, 0.2)
    assert torch.equal(first[1:], alone(1.0, 0.5)) and torch.equal(second[1:], alone(0.5, 0.2))
    draws = [tensors.noise([5, 6], shape), first, second]
    rows = torch.cat(draws).flatten(1)
    assert (torch.cdist(rows, rows) + torch.eye(6) > 0.1).all()  # six rows, no two alike


def test_eta_is_the_share_of_ancestral_noise():
    x, sigmas = torch.randn(1, 9, generator=tensors.generator(0)).double() * 5, levels(6)
    plain = run("euler", DATA.denoised, x, sigmas)
    torch.testing.assert_close(run("ddim", DATA.denoised, x, sigmas, eta=0.0), plain)
    ancestral = run("euler_ancestral", DATA.denoised, x, sigmas)
    torch.testing.assert_close(run("ddim", DATA.denoised, x, sigmas, eta=1.0), ancestral)
    assert (plain - ancestral).abs().max() > 0.1


def test_lms_of_order_1_is_euler():
    x, sigmas = torch.randn(1, 9, generator=tensors.generator(0)).double() * 5, levels(6)
    torch.testing.assert_close(
        run("lms", DATA.denoised, x, sigmas, order=1), run("euler", DATA.denoised, x, sigmas)
    )


def test_samplers_keep_no_gradients_and_the_precision_of_x():
    net = torch.nn.Linear(3, 3)
    x = torch.ones(1, 3)
    x0 = SAMPLERS["euler"](lambda x, sigma: net(x), x, levels(3))
    assert not x0.requires_grad and x0.dtype == torch.float32
    assert torch.equal(x, torch.ones(1, 3))  # what was given is not written to


def test_every_name_resolves_and_no_other():
    assert set(SAMPLERS) == set(requests.SAMPLERS)
    assert samplers.by_name("heun") is samplers.sample_heun
    with pytest.raises(errors.BadRequest) as caught:
        samplers.by_name("quick")
    assert "no sampler called “quick”" in str(caught.value)
    assert all(name in str(caught.value) for name in SAMPLERS)
