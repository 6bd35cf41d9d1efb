"""Denoisers: from what nets of each training say back to the clean picture."""

import diffusers
import pytest
import torch

from engines import tensors
from engines.diffusion import schedules
from engines.diffusion.denoisers import DENOISERS, Denoiser

# diffusers hands tensors to NumPy as versions before 2 had it.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

BETAS = schedules.scaled_linear_betas()
ALPHAS = schedules.alphas_cumprod(BETAS)
DISCRETE, FLOW = schedules.DiscreteNoise(ALPHAS), schedules.FlowNoise()
STEPS = torch.tensor([0, 1, 250, 999])  # training steps of a batch of four


def noise_of(name):
    return FLOW if name == "flow" else DISCRETE


def pictures(dtype=torch.float64):
    x0, n = tensors.noise([1, 2, 3, 4], (3, 4, 5)), tensors.noise([5, 6, 7, 8], (3, 4, 5))
    return x0.to(dtype), n.to(dtype)


def rows(value):
    return value.view(-1, 1, 1, 1)


class Listener:
    """A net that says `answer` and remembers what it was given."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, x, t, **extra):
        self.x, self.t, self.extra = x, t, extra
        return self.answer


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 1.0, 14.6, 999.0])
@pytest.mark.parametrize("name", DENOISERS)
def test_a_net_that_meets_its_target_gives_the_clean_picture(name, sigma):
    x0, n = pictures()
    sigma = torch.full((4,), sigma, dtype=torch.float64)
    model = DENOISERS[name](None, noise_of(name))
    model.net = Listener(model.target(x0, n, sigma))
    torch.testing.assert_close(model(x0 + rows(sigma) * n, sigma), x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_net_does_better_by_as_much_as_its_output_counts(name):
    # Karras et al., 2022, eq. 8: an error of the raw output reaches the picture times c_out.
    x0, n = pictures()
    sigma = torch.tensor([0.1, 0.5, 2.0, 10.0], dtype=torch.float64)
    model = DENOISERS[name](None, noise_of(name))
    model.net = Listener(model.target(x0, n, sigma) + 0.01)
    _, c_out, _, _ = model.scalings(sigma)
    error = model(x0 + rows(sigma) * n, sigma) - x0
    torch.testing.assert_close(error, 0.01 * rows(c_out).expand_as(error), rtol=1e-9, atol=1e-12)
    assert (c_out != 0).all()


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
def test_the_net_sees_the_forward_process_of_ddpm(name):
    # Ho et al., 2020, eq. 4, at training step k: sqrt(a_k) x0 + sqrt(1 - a_k) n, told the time k.
    x0, n = pictures()
    net, a = Listener(x0), rows(ALPHAS[STEPS])
    DENOISERS[name](net, DISCRETE)(x0 + ((1 - a) / a).sqrt() * n, DISCRETE.sigma(STEPS.double()))
    torch.testing.assert_close(net.x, a.sqrt() * x0 + (1 - a).sqrt() * n, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.t, STEPS.double(), rtol=0, atol=1e-6)


def test_the_net_sees_the_straight_line_of_flow():
    x0, n = pictures()
    t = torch.tensor([0.001, 0.25, 0.5, 0.999], dtype=torch.float64)
    sigma = t / (1 - t)
    net = Listener(x0)
    DENOISERS["flow"](net, FLOW)(x0 + rows(sigma) * n, sigma)
    torch.testing.assert_close(net.x, (1 - rows(t)) * x0 + rows(t) * n, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.t, 1000 * t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name, prediction", [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
@pytest.mark.parametrize("kind", [diffusers.DDPMScheduler, diffusers.DDIMScheduler])
def test_raw_outputs_mean_what_they_mean_to_the_peer(kind, name, prediction):
    scheduler = kind(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                     prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    raw, x = pictures(torch.float32)  # any output for any input, not only those that fit together
    for t in scheduler.timesteps[[0, 7, 19]]:
        expected = scheduler.step(raw, t, x, generator=tensors.generator(0)).pred_original_sample
        sigma = DISCRETE.sigma(t.float()).expand(4)
        net = Listener(raw)
        found = DENOISERS[name](net, DISCRETE)(x * (1 + rows(sigma) ** 2).sqrt(), sigma)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(net.x, x, rtol=1e-5, atol=1e-5)


def test_the_targets_are_the_peers():
    x0, n = pictures(torch.float32)
    sigma = DISCRETE.sigma(STEPS.float())
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    velocity = scheduler.get_velocity(x0, n, STEPS)
    torch.testing.assert_close(DENOISERS["v"](None, DISCRETE).target(x0, n, sigma), velocity, rtol=1e-3, atol=1e-3)
    assert torch.equal(DENOISERS["eps"](None, DISCRETE).target(x0, n, sigma), n)


def test_the_velocity_of_flow_is_the_slope_that_the_peer_integrates():
    # One Euler step of the peer's, from time t to 0 along a constant velocity, ends at x0.
    x0, n = pictures(torch.float32)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.8])
    velocity = DENOISERS["flow"](None, FLOW).target(x0, n, torch.full((4,), 4.0))
    end = scheduler.step(velocity, scheduler.timesteps[0], 0.2 * x0 + 0.8 * n).prev_sample
    torch.testing.assert_close(end, x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_net_of_low_precision_is_fed_its_own_and_the_rest_stays(name):
    x0, n = pictures(torch.float32)
    sigma = torch.tensor([0.1, 0.5, 2.0, 10.0])
    model = DENOISERS[name](None, noise_of(name), dtype=torch.bfloat16)
    model.net = Listener(model.target(x0, n, sigma).bfloat16())
    denoised = model(x0 + rows(sigma) * n, sigma)
    assert model.net.x.dtype == torch.bfloat16
    assert model.net.t.dtype == denoised.dtype == torch.float32
    # bfloat16 holds 8 bits: an error of 2 ** -9 of the output, times c_out; a scaling rounded too would show
    c_out = rows(model.scalings(sigma)[1])
    allowed = 2.0**-8 * (c_out * model.target(x0, n, sigma)).abs() + 1e-5
    assert ((denoised - x0).abs() <= allowed).all()
    assert not torch.equal(denoised, x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_precision_the_net_gets_that_of_x(dtype):
    x0, _ = pictures(dtype)
    net = Listener(x0)
    assert DENOISERS["eps"](net, DISCRETE)(x0, torch.ones(4, dtype=dtype)).dtype == dtype
    assert net.x.dtype == net.t.dtype == dtype


def test_extra_arguments_reach_the_net():
    x0, _ = pictures()
    net, context = Listener(x0), object()
    DENOISERS["v"](net, DISCRETE)(x0, torch.ones(4, dtype=torch.float64), context=context)
    assert net.extra == {"context": context}


@pytest.mark.parametrize("name", DENOISERS)
def test_each_row_has_its_own_sigma(name):
    x, raw = pictures()
    sigma = torch.tensor([0.1, 0.5, 2.0, 10.0], dtype=torch.float64)

    def net(x, t):
        return x.tanh() + rows(t) / 1000

    together = DENOISERS[name](net, noise_of(name))(x, sigma)
    for i in range(4):
        alone = DENOISERS[name](net, noise_of(name))(x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_the_table_holds_every_parameterisation():
    assert set(DENOISERS) == {"eps", "v", "x0", "flow"}
    assert all(issubclass(kind, Denoiser) for kind in DENOISERS.values())


def test_numbers_a_row_stay_precise_where_the_net_is_not():
    told = {}
    model = DENOISERS["flow"](lambda x, t, **more: told.update(more) or x, FLOW, dtype=torch.bfloat16)
    x0, _ = pictures(torch.float32)
    model(x0, torch.ones(4), guidance=torch.full((4,), 5.3), context=torch.ones(4, 2, 3))
    assert told["guidance"].dtype == torch.float32 and told["context"].dtype == torch.bfloat16
