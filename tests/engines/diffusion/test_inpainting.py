"""Painting into what is known: exact for any sampler, and beside the peer's inpainting pipeline."""

from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

from engines import tensors
from engines.diffusion import guidance, samplers, schedules
from engines.diffusion.denoisers import EpsDenoiser
from engines.diffusion.inpainting import kept, resampled
from engines.diffusion.samplers import SAMPLERS
from engines.diffusion.unet import UNet, UNetConfig
from tests import peers
from tests.oracles import Mixture

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

DATA = Mixture(weights=(0.5, 0.5), means=(-1.0, 1.0), stds=(0.2, 0.2))
STEADY = ("euler", "heun", "ddim", "dpmpp_2m", "lms", "unipc")  # they draw no noise on the way


def levels(steps):
    return torch.linspace(5.0 ** (1 / 7), 0, steps + 1, dtype=torch.float64) ** 7


def start(known, sigmas, seed=0):
    noise = torch.randn(known.shape, generator=tensors.generator(seed), dtype=known.dtype)
    return noise, known + sigmas[0] * noise


def fresh(shape):
    generator = tensors.generator(9)
    return lambda sigma, sigma_next: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def known():
    return torch.linspace(-2, 2, 2 * 1 * 4 * 4, dtype=torch.float64).view(2, 1, 4, 4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_known_comes_back_and_the_rest_is_of_the_data(known, name):
    sigmas, strength = levels(20), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    strength[..., 2:] = 1
    _, x = start(known, sigmas)
    found = SAMPLERS[name](
        kept(DATA.denoised, known, strength, sigmas, 20), x, sigmas, noise_sampler=fresh(x.shape)
    )
    torch.testing.assert_close(found[..., :2], known[..., :2], rtol=0, atol=1e-9)
    assert ((found[..., 2:].abs() - 1).abs() < 0.9).all()


@pytest.mark.parametrize("name", STEADY)
def test_on_the_way_the_known_has_the_noise_of_its_level(known, name):
    sigmas, seen = levels(8), []
    noise, x = start(known, sigmas)
    SAMPLERS[name](kept(DATA.denoised, known, 0 * known, sigmas, 8), x, sigmas, callback=seen.append)
    for step in seen:
        torch.testing.assert_close(step.x, known + step.sigma * noise, rtol=0, atol=1e-9)


def test_a_place_is_painted_for_its_share_of_the_steps_the_last_ones(known):
    strength = torch.linspace(0, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    sigmas, answers = levels(10), []

    def nothing(x, sigma):
        return torch.full_like(x, 99.0)

    painted = kept(nothing, known, strength, sigmas, 10)
    for sigma in sigmas[:-1]:
        answers.append(painted(known, sigma.expand(2)) == 99)
    assert torch.equal(torch.stack(answers).sum(0), (strength * 10).round().long().expand(2, 1, 4, 4))
    for before, after in pairwise(answers):
        assert (after | ~before).all()


def test_a_run_of_the_last_steps_alone_counts_them_as_the_whole_run_does(known):
    whole, strength = levels(10), torch.full((1, 1, 4, 4), 0.4, dtype=torch.float64)
    sigmas = schedules.tail(whole, 0.4)
    painted = kept(lambda x, sigma: x + 50, known, strength, sigmas, 10)
    assert len(sigmas) == 5 and (painted(known, sigmas[0].expand(2)) == known + 50).all()


# ---------------------------------------------------------------- going back


def test_without_jumps_a_sampler_is_itself():
    assert resampled(samplers.sample_euler, 0, 5) is samplers.sample_euler


def test_going_back_repeats_the_steps_at_their_levels_and_draws_from_the_same_data():
    sigmas, seen = levels(12), []
    x = 5 * torch.randn(4000, 1, generator=tensors.generator(0), dtype=torch.float64)
    found = resampled(samplers.sample_dpmpp_2m, 2, 5)(
        DATA.denoised, x, sigmas, callback=seen.append, noise_sampler=fresh(x.shape)
    )
    assert [step.index for step in seen] == list(range(1, 37)) and {step.count for step in seen} == {36}
    expected = [*sigmas[:5].tolist() * 3, *sigmas[5:10].tolist() * 3, *sigmas[10:12].tolist() * 3]
    assert [step.sigma for step in seen] == pytest.approx(expected)
    grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
    empirical = (found <= grid).double().mean(0)
    exact = DATA.cdf(grid[None], 0.0)[0]
    assert (empirical - exact).abs().max() < 0.05


# ---------------------------------------------------------------- beside diffusers


class Vectors(torch.nn.Module):
    """Stands where the pipeline looks for a text encoder: only its precision is asked for."""

    dtype = torch.float32


def test_nine_channels_equal_the_pipeline_of_diffusers():
    config = UNetConfig(
        in_channels=9, ch=32, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(0,), context_dim=24, num_heads=2,
        adm_dim=0, norm_groups=8,
    )  # fmt: skip
    peer = UNet2DConditionModel(
        sample_size=8, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    peers.randomise(peer)
    net = UNet(config).eval()
    net.load_state_dict({peers.published_key(key, config): value for key, value in peer.state_dict().items()})
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4)  # fmt: skip
    draw = tensors.generator(3)
    words, nothing = (torch.randn(1, 7, 24, generator=draw) for _ in range(2))
    noise, masked = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 4, 8, 8, generator=draw)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 8:40] = 1
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionInpaintPipeline(
        vae, None, None, peer, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=torch.zeros(1, 3, 64, 64), mask_image=mask, masked_image_latents=masked, latents=noise,
        prompt_embeds=words, negative_prompt_embeds=nothing, guidance_scale=3.0, num_inference_steps=5, strength=1.0,
        height=64, width=64, output_type="latent",
    ).images  # fmt: skip

    process = schedules.DiscreteNoise(schedules.alphas_cumprod(schedules.scaled_linear_betas()))
    sigmas = torch.cat([process.sigma(scheduler.timesteps.double()), torch.zeros(1, dtype=torch.float64)])
    concat = torch.cat([torch.nn.functional.max_pool2d(mask, 8), masked], dim=1)
    denoise = guidance.guided(
        EpsDenoiser(net, process), {"context": words, "concat": concat}, {"context": nothing, "concat": concat}, 3.0
    )
    strength = torch.ones(1, 1, 8, 8)
    first = noise * (1 + sigmas[0] ** 2).sqrt().float()  # the pipeline's frame keeps the variance
    found = samplers.sample_ddim(kept(denoise, 0 * noise, strength, sigmas, 5), first, sigmas)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
