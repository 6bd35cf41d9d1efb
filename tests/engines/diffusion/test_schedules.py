"""Noise processes and step schedules beside diffusers', and their own laws."""

import math

import diffusers
import numpy as np
import pytest
import torch

from engines import errors, requests
from engines.diffusion import schedules

STEPS = 20
BETAS = {
    "linear": (schedules.linear_betas(), {"beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (schedules.scaled_linear_betas(), {"beta_start": 0.00085, "beta_end": 0.012}),
    "squaredcos_cap_v2": (schedules.cosine_betas(), {}),
}
PROCESSES = {
    "discrete": schedules.DiscreteNoise(schedules.alphas_cumprod(schedules.scaled_linear_betas())),
    "flow": schedules.FlowNoise(),
    "shifted flow": schedules.FlowNoise(shift=3.0),
}


def peer(beta_schedule, steps=STEPS, **settings):
    _, ends = BETAS[beta_schedule]
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule=beta_schedule, **ends, **settings)
    scheduler.set_timesteps(steps)
    return scheduler


def ours(beta_schedule):
    return schedules.DiscreteNoise(schedules.alphas_cumprod(BETAS[beta_schedule][0]))


@pytest.mark.parametrize("name", BETAS)
def test_betas_equal_the_peers(name):
    betas, ends = BETAS[name]
    theirs = diffusers.DDPMScheduler(beta_schedule=name, **ends)
    torch.testing.assert_close(betas.float(), theirs.betas, rtol=1e-5, atol=1e-7)
    # products of a thousand float32 factors on their side
    torch.testing.assert_close(schedules.alphas_cumprod(betas).float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)


# The peer interpolates sigma itself between training steps and we its logarithm; with 28 steps the
# linear times are whole numbers and nothing is left to interpolate.
@pytest.mark.parametrize(
    "name, steps, settings",
    [
        ("linear", 28, {"timestep_spacing": "linspace"}),
        ("simple", 20, {"timestep_spacing": "trailing"}),
        ("simple", 30, {"timestep_spacing": "trailing"}),
        ("karras", 20, {"use_karras_sigmas": True}),
        ("exponential", 20, {"use_exponential_sigmas": True}),
    ],
)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_schedule_equals_the_peers(name, steps, settings, betas):
    theirs = peer(betas, steps, **settings)
    noise = ours(betas)
    sigmas = schedules.by_name(name)(noise, steps)
    torch.testing.assert_close(sigmas, theirs.sigmas, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(noise.t(sigmas[:-1]), theirs.timesteps, rtol=1e-3, atol=0.02)


def test_linear_is_near_the_peers_between_training_steps():
    sigmas = schedules.linear(ours("scaled_linear"), STEPS)
    torch.testing.assert_close(sigmas, peer("scaled_linear", timestep_spacing="linspace").sigmas, rtol=1e-3, atol=0)


def test_sgm_uniform_equals_the_peers():
    # DPMSolverMultistep's "linspace" leaves the last step too, and rounds the times to whole ones
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", timestep_spacing="linspace")
    scheduler.set_timesteps(27)
    torch.testing.assert_close(schedules.sgm_uniform(ours("linear"), 27), scheduler.sigmas, rtol=1e-4, atol=0)


def test_flow_linear_equals_the_peers():
    # the peer's first time is 1, of infinite sigma; ours is 0.999
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(0.999, 0.001, STEPS))
    noise = schedules.FlowNoise()
    sigmas = schedules.linear(noise, STEPS)
    torch.testing.assert_close(sigmas / (1 + sigmas), scheduler.sigmas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(noise.t(sigmas[:-1]), scheduler.timesteps, rtol=1e-5, atol=1e-4)


def test_flow_shift_equals_the_peers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(0.999, 0.001, STEPS))
    sigmas = schedules.linear(schedules.FlowNoise(shift=3.0), STEPS)
    torch.testing.assert_close(sigmas / (1 + sigmas), scheduler.sigmas, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("process", PROCESSES)
def test_time_and_sigma_are_inverse(process):
    noise = PROCESSES[process]
    t = noise.time(torch.linspace(0, 1, 777, dtype=torch.float64))
    torch.testing.assert_close(noise.t(noise.sigma(t)), t, rtol=1e-9, atol=1e-9)
    assert float(noise.sigma(t)[0]) == pytest.approx(noise.sigma_min, rel=1e-9)
    assert float(noise.sigma(t)[-1]) == pytest.approx(noise.sigma_max, rel=1e-9)


def test_discrete_levels_are_exact_in_float32():
    noise, alphas = PROCESSES["discrete"], schedules.alphas_cumprod(schedules.scaled_linear_betas())
    levels = torch.arange(1000, dtype=torch.float32)
    torch.testing.assert_close(noise.sigma(levels), ((1 - alphas) / alphas).sqrt().float(), rtol=1e-5, atol=0)


def test_times_past_the_end_are_held():
    for noise in PROCESSES.values():
        assert float(noise.sigma(torch.tensor(1000.0))) == pytest.approx(noise.sigma_max, rel=1e-4)
    assert float(PROCESSES["discrete"].t(torch.tensor(1e6))) == 999
    assert float(PROCESSES["discrete"].t(torch.tensor(1e-6))) == 0


@pytest.mark.parametrize("steps", [1, 2, 7, 150])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", requests.SCHEDULES)
def test_schedule_falls_from_the_noisiest_level_to_zero(name, process, steps):
    noise = PROCESSES[process]
    sigmas = schedules.by_name(name)(noise, steps)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[-1] == 0
    assert float(sigmas[0]) == pytest.approx(noise.sigma_max, rel=1e-5)
    assert float(sigmas[-2]) >= noise.sigma_min * (1 - 1e-5)


def test_every_name_resolves_and_no_other():
    assert set(schedules.SCHEDULES) == set(requests.SCHEDULES)
    with pytest.raises(errors.BadRequest, match="no scheduler called “quick”.*karras"):
        schedules.by_name("quick")


@pytest.mark.parametrize("strength, steps", [(1.0, 20), (0.6, 12), (0.05, 1), (0.001, 1)])
def test_tail_keeps_the_share_of_steps(strength, steps):
    sigmas = schedules.karras(PROCESSES["discrete"], STEPS)
    assert torch.equal(schedules.tail(sigmas, strength), sigmas[STEPS - steps:])


def test_cosine_levels_follow_the_papers_formula():
    alphas = schedules.alphas_cumprod(schedules.cosine_betas())
    expected = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(alphas[499]) == pytest.approx(expected, rel=1e-9)
