"""Training a VQGAN: it learns, a stopped run resumes to the same bits, and its folder holds what it should."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from engines.checkpoints import files, models
from engines.errors import AtelierError, BadRequest, Cancelled
from engines.training import loop
from engines.training.data import Example
from engines.training.loop import MovingAverage, rate_share, train
from engines.training.vqgan import VQGANRecipe, VQGANTrainer
from engines.vqgan.autoencoder import AutoencoderConfig, CodebookConfig

RECIPE = VQGANRecipe(
    AutoencoderConfig(
        ch=8, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(), z_channels=4, embed_dim=4, norm_groups=4, patch=2
    ),
    CodebookConfig(32, l2_normalised=True, ema_decay=0.9),
    size=16,
    crop=16,
    batch=4,
    rate=3e-3,
    discriminator_ch=8,
    discriminator_layers=1,
    adversarial_start=4,
)
STEPS = 8


def examples():
    """Icons with a disc and photographs with stripes, of random colours; some of each are held out."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :20]
    found = []
    for i in range(30):
        colour, phase = rng.integers(0, 256, 3), rng.integers(20)
        if i % 2:
            disc = ((y[:16, :16] - 8) ** 2 + (x[:16, :16] - phase % 16) ** 2 < 30)[..., None] * 255
            pixels = np.concatenate([np.broadcast_to(colour, (16, 16, 3)), disc], axis=2)
        else:
            pixels = ((x + phase) // 5 % 2)[..., None] * colour
        found.append(Example(f"{i}.png", pixels.astype(np.uint8)))
    assert {example.held_out for example in found} == {True, False}
    return found


def build(recipe=RECIPE, **options):
    return VQGANTrainer(recipe, examples(), **options)


def stop_at(step, error=Cancelled):
    def report(row):
        if row["step"] == step:
            raise error
    return report


def flat(trainer):
    """All that a run has learned, its optimizers, its codebook's sums and its averages included."""
    return loop._flatten(trainer.state())[0]


def assert_same_bits(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    assert not [key for key, value in a.items() if not torch.equal(value, b[key])]


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("codebook", [
    RECIPE.codebook, CodebookConfig(32),
], ids=["ema codebook", "codebook by gradient"])
def test_a_few_dozen_steps_lower_the_loss(codebook):
    trainer = build(replace(RECIPE, codebook=codebook, adversarial_start=1000))
    x = torch.cat([trainer.pictures(1000 + i)[0] for i in range(4)])  # one sheet to measure on, before and after

    @torch.no_grad()
    def reconstruction():
        y, _ = trainer.model.eval()(x)
        return ((y - x).abs().mean() + RECIPE.perceptual_weight * trainer.perceptual(x, y)).item()

    before = reconstruction()
    for index in range(30):
        trainer.step(index, 1.0)
    assert reconstruction() < 0.9 * before


def test_the_discriminator_learns_and_is_listened_to():
    trainer = build(replace(RECIPE, adversarial_start=0))
    discriminator = trainer.adversary.discriminator
    before = {key: value.clone() for key, value in discriminator.state_dict().items()}
    row = trainer.step(0, 1.0)
    assert {"generator", "discriminator"} <= row.keys()
    assert not [key for key, value in discriminator.state_dict().items() if torch.equal(value, before[key])]
    # The same step without it moves the autoencoder elsewhere.
    alone = build(replace(RECIPE, adversarial_start=1))
    assert "generator" not in alone.step(0, 1.0)
    assert not torch.equal(alone.model.decoder.conv_out.weight, trainer.model.decoder.conv_out.weight)


def test_the_diversity_term_takes_part():
    plain, diverse = build(replace(RECIPE, adversarial_start=9)), build(
        replace(RECIPE, adversarial_start=9, diversity_weight=1.0)
    )
    for trainer in (plain, diverse):
        trainer.step(0, 1.0)
    assert not torch.equal(plain.model.decoder.conv_out.weight, diverse.model.decoder.conv_out.weight)


@pytest.fixture(scope="module", params=["ema codebook, hinge", "codebook by gradient, classical"])
def whole(request, tmp_path_factory):
    """One uninterrupted run for each kind, to compare stopped ones with: `(recipe, trainer, folder)`."""
    recipe = RECIPE
    if "classical" in request.param:
        recipe = replace(RECIPE, codebook=CodebookConfig(32), adversarial="classical", diversity_weight=0.1)
    folder = tmp_path_factory.mktemp("whole")
    trainer = build(recipe, card={"licence": "MIT", "title": "Würfel"})
    assert train(trainer, folder, steps=STEPS, warmup=3) == STEPS
    return recipe, trainer, folder


@pytest.mark.parametrize("stops", [(2,), (4,), (6,), (1, 5, 7)], ids=str)
def test_a_stopped_run_resumes_to_the_same_bits(whole, tmp_path, stops):
    """Stopped before, at and after the discriminator joins at 4, and more than once."""
    recipe, expected, folder = whole
    for i, step in enumerate(stops):
        assert train(build(recipe), tmp_path, steps=STEPS, warmup=3, resume=i > 0, report=stop_at(step)) == step
        assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(12345)  # what torch drew in between must not matter
    resumed = build(recipe)
    assert train(resumed, tmp_path, warmup=3, resume=True) == STEPS  # the checkpoint knows how many steps
    assert_same_bits(resumed, expected)
    assert read_log(tmp_path) == read_log(folder)
    assert (tmp_path / "losses.png").read_bytes() == (folder / "losses.png").read_bytes()


def test_a_killed_run_resumes_from_its_last_checkpoint(whole, tmp_path):
    recipe, expected, folder = whole
    with pytest.raises(RuntimeError):
        train(build(recipe), tmp_path, steps=STEPS, warmup=3, report=stop_at(6, RuntimeError), save_seconds=-1)
    # Killed after the log of a sixth step and before its checkpoint.
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 6, "l1": 9.0}\n')
    resumed = build(recipe)
    seen = []
    train(resumed, tmp_path, warmup=3, resume=True, report=lambda row: seen.append(row["step"]))
    assert seen == [6, 7, 8]
    assert_same_bits(resumed, expected)
    assert read_log(tmp_path) == read_log(folder)


def test_another_seed_is_another_run(whole):
    recipe, expected, _ = whole
    other = build(replace(recipe, seed=1))
    assert not torch.equal(other.pictures(0)[0], expected.pictures(0)[0])
    assert not torch.equal(other.model.encoder.conv_in.weight, build(recipe).model.encoder.conv_in.weight)


def test_a_run_is_not_overwritten(whole):
    recipe, _, folder = whole
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadRequest, match="already holds a run; add --resume"):
        train(build(recipe), folder, steps=STEPS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_to_resume_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="no checkpoint to resume"):
        train(build(), tmp_path / "new", steps=STEPS, resume=True)


def test_a_run_of_another_preset_is_not_resumed(whole):
    recipe, _, folder = whole
    before = (folder / "checkpoint.safetensors").read_bytes()
    other = replace(recipe, autoencoder=replace(recipe.autoencoder, ch=16))
    with pytest.raises(BadRequest, match="began with another preset"):
        train(build(other), folder, steps=STEPS + 2, resume=True)
    assert (folder / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(("length", "words"), [
    ({}, "--steps or --minutes"), ({"steps": 0}, "--steps or --minutes"), ({"steps": -5}, "at least 1"),
    ({"minutes": math.inf}, "above 0"), ({"minutes": math.nan}, "above 0"), ({"minutes": -1.0}, "above 0"),
], ids=str)
def test_a_length_that_is_none_is_refused(tmp_path, length, words):
    with pytest.raises(BadRequest, match=words):
        train(build(), tmp_path / "run", **length)
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BadRequest, match="cannot be made a folder"):
        train(build(), tmp_path / "run", steps=1)


def test_a_run_that_has_had_its_steps_is_not_resumed(whole):
    recipe, _, folder = whole
    with pytest.raises(BadRequest, match="has had its 8 steps"):
        train(build(recipe), folder, resume=True)


def test_a_run_without_its_log_is_not_resumed(tmp_path):
    train(build(), tmp_path, steps=STEPS, report=stop_at(2))
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(BadRequest, match="log.jsonl is gone"):
        train(build(), tmp_path, resume=True)


def test_a_folder_that_is_all_held_out_is_refused():
    with pytest.raises(BadRequest, match="held out"):
        VQGANTrainer(RECIPE, [example for example in examples() if example.held_out])


def test_the_folder_of_a_run(whole):
    recipe, trainer, folder = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors", "log.jsonl", "losses.png", "model.safetensors", "samples-000008.png",
    ]
    rows = read_log(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(("discriminator" in row) == (row["step"] > recipe.adversarial_start) for row in rows)
    curves = len(rows[-1]) - 1
    with Image.open(folder / "losses.png") as plot:
        assert plot.size == (900, 220 * curves)
        assert (0x3B, 0x6E, 0xA5) in {colour for _, colour in plot.getcolors(1 << 20)}  # a curve is drawn
    with Image.open(folder / "samples-000008.png") as sheet:
        shown = len(trainer.shown)
        assert 0 < shown <= 8 and sheet.size == (18 * shown - 2, 34)


def test_samples_are_held_out_pictures_above_their_reconstructions(whole):
    recipe, trainer, folder = whole
    assert all(example.held_out for example in trainer.shown)
    with Image.open(folder / "samples-000008.png") as sheet:
        pixels = np.asarray(sheet)
    icon = next(i for i, example in enumerate(trainer.shown) if example.pixels.shape[2] == 4)
    original = trainer.shown[icon].pixels
    on_white = np.where(original[..., 3:] > 0, original[..., :3], 255)  # these icons have no half-transparency
    assert np.array_equal(pixels[:16, icon * 18 : icon * 18 + 16], on_white)
    x = torch.from_numpy(on_white.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    exported = models.load(folder / "model.safetensors")
    with torch.no_grad():
        expected = (exported(x)[0][0].clamp(-1, 1) + 1) * 127.5
    found = pixels[18:34, icon * 18 : icon * 18 + 16].transpose(2, 0, 1)
    # The export is rounded to float16, which may move a latent to another code.
    assert np.median(np.abs(found - expected.numpy())) < 2


def test_the_exported_model_is_the_average_with_config_and_card(whole):
    recipe, trainer, folder = whole
    tensors, metadata = files.read_header(folder / "model.safetensors")
    assert {dtype for dtype, _ in tensors.values()} == {"F16"}
    assert metadata["family"] == "vqgan"
    seen = {"pictures seen": STEPS * recipe.batch}
    assert metadata["card"] == {"licence": "MIT", "title": "Würfel"} | seen
    assert metadata["config"] == json.loads(json.dumps({
        "autoencoder": asdict(recipe.autoencoder), "codebook": asdict(recipe.codebook),
    }))
    model = models.load(folder / "model.safetensors")
    assert model.config == recipe.autoencoder and model.codebook_config == recipe.codebook
    expected = trainer.model.state_dict() | trainer.average.values
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name].half().float()), name
    # An EMA codebook is its own average; every other weight differs from its last value.
    averaged = set(expected) - (set() if trainer.model.quantize.embedding.weight.requires_grad else {
        "quantize.embedding.weight"
    })
    assert set(trainer.average.values) == averaged
    assert not torch.equal(expected["decoder.conv_out.weight"], trainer.model.decoder.conv_out.weight)


def test_a_decoder_alone_learns_the_codes_of_a_vqgan():
    start = build().model
    before = {name: value.clone() for name, value in start.state_dict().items()}
    trainer = build(replace(RECIPE, learns="decoder", adversarial_start=1), start=start)
    for index in range(3):
        trainer.step(index, 1.0)
    learned = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert learned and all(name.startswith(("decoder.", "post_quant_conv.")) for name in learned)
    assert {name.partition(".")[0] for name in learned} == {"decoder", "post_quant_conv"}
    x, _ = trainer.pictures(9)
    assert torch.equal(trainer.model(x)[1].indices, build().model.eval()(x)[1].indices)


LARGER = replace(
    RECIPE, autoencoder=replace(RECIPE.autoencoder, larger=1), learns="larger", adversarial_start=1
)


def test_a_head_for_larger_pictures_learns_alone():
    start = build().model.eval()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    trainer = build(LARGER, start=start)
    assert trainer.model.config == LARGER.autoencoder
    new = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for index in range(3):
        trainer.step(index, 1.0)
    state = trainer.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    assert not any(torch.equal(value, new[name]) for name, value in state.items() if name not in before)


@pytest.mark.parametrize("part", ["all", "decoder"])
def test_a_second_head_does_not_outlive_the_decoder_that_it_reads(part):
    start = build(LARGER, start=build().model).model
    assert start.config.larger and not build(replace(RECIPE, learns=part), start=start).model.config.larger
    assert build(LARGER, start=start).model.config.larger


def test_a_head_for_larger_pictures_sees_them_at_half_their_sides():
    trainer = build(LARGER, start=build().model)
    trainer.model.eval()
    x, _ = trainer.pictures(0)
    y, quantized = trainer._reconstructed(x)
    assert y.shape == x.shape == (4, 3, 16, 16)
    assert torch.equal(quantized.indices, trainer.model(F.avg_pool2d(x, 2))[1].indices)


def test_a_head_for_larger_pictures_learns_from_inexact_latents():
    exact, inexact = (build(replace(LARGER, inexact=most), start=build().model) for most in (0.0, 5.0))
    x, _ = exact.pictures(0)
    for trainer in (exact, inexact):
        trainer.model.train()
        trainer.model.quantize.eval()
    assert not torch.equal(exact._reconstructed(x)[1].indices, inexact._reconstructed(x)[1].indices)
    inexact.model.eval()
    assert torch.equal(exact._reconstructed(x)[1].indices, inexact._reconstructed(x)[1].indices)


def test_errors_at_borders_count_more_if_the_recipe_says_so():
    rows = [build(replace(RECIPE, border=more)).step(0, 1.0) for more in (0.0, 3.0)]
    assert rows[0]["perceptual"] == rows[1]["perceptual"]
    assert rows[1]["l1"] > 3 * rows[0]["l1"]  # 16 pixels a side are all near to a border


def test_a_loaded_vqgan_is_trained_on(tmp_path):
    build().export(tmp_path / "model.safetensors")
    start = models.load(tmp_path / "model.safetensors")
    before = {name: value.clone() for name, value in start.state_dict().items()}
    trainer = build(start=start)
    trainer.step(0, 1.0)
    state = trainer.model.state_dict()
    parts = {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, state[name])}
    assert parts >= {"encoder", "decoder", "quant_conv", "post_quant_conv"}


@pytest.mark.parametrize("part", ["decoder", "larger"])
def test_a_decoder_alone_needs_a_vqgan(part):
    with pytest.raises(BadRequest, match="name that one with --from"):
        build(replace(RECIPE, learns=part))


def test_a_batch_depends_on_its_number_alone():
    trainer, other = build(), build()
    other.pictures(0)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(trainer.pictures(3)[0], other.pictures(3)[0])
    assert not torch.equal(trainer.pictures(3)[0], trainer.pictures(4)[0])
    x, _ = trainer.pictures(3)
    assert x.shape == (4, 3, 16, 16) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1 and x.std() > 0.1


def test_training_never_sees_what_is_held_out():
    """Held-out pictures are made magenta, a colour of no other picture or background."""
    kept = [example for example in examples() if not example.held_out]
    magenta = np.full((16, 16, 3), (255, 0, 255), np.uint8)
    hidden = [replace(example, pixels=magenta) for example in examples() if example.held_out]
    trainer = VQGANTrainer(RECIPE, kept + hidden)
    for index in range(10):
        x, _ = trainer.pictures(index)
        of_magenta = (x[:, 0] == 1) & (x[:, 1] == -1) & (x[:, 2] == 1)
        assert not of_magenta.any()
    assert all((example.pixels == magenta).all() for example in trainer.shown) and trainer.shown


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_photographs_have_their_share(share):
    """Icons are made all clear, so that they show one plain background."""
    clear = np.zeros((16, 16, 4), np.uint8)
    rows = [replace(e, pixels=clear) if e.pixels.shape[2] == 4 else e for e in examples()]
    trainer = VQGANTrainer(replace(RECIPE, photo_share=share, batch=50), rows)
    drawn = torch.cat([trainer.pictures(index)[0] for index in range(4)])
    found = (drawn.std((2, 3)).amax(1) > 0).double().mean().item()
    assert abs(found - share) <= 4 * (share * (1 - share) / 200) ** 0.5


def test_an_unknown_adversary_is_refused():
    with pytest.raises(BadRequest, match="“wasserstein”.*classical, hinge"):
        replace(RECIPE, adversarial="wasserstein")


# The loop, with a trainer that learns nothing.


class Counter:
    """Counts its steps; the loss is what the test says."""

    batch = 3
    device = torch.device("cpu")

    def __init__(self, loss=lambda index: 1.0):
        self.loss, self.shares, self.card = loss, [], {}

    def step(self, index, share):
        self.shares.append(share)
        return {"loss": self.loss(index)}

    def fingerprint(self):
        return "a counter"

    def state(self):
        return {"count": torch.tensor([len(self.shares)])}

    def load_state(self, state):
        self.shares = [None] * int(state["count"])

    def samples(self):
        return Image.new("RGB", (4, 4))

    def export(self, path):
        files.save(path, self.state())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_broken_loss_stops_the_run_and_spares_its_checkpoint(tmp_path, wrong):
    trainer = Counter(lambda index: wrong if index == 4 else 1.0)
    with pytest.raises(AtelierError, match="step 5.*another preset"):
        train(trainer, tmp_path, steps=9, save_seconds=-1)
    assert not (tmp_path / "model.safetensors").exists()
    resumed = Counter()
    assert train(resumed, tmp_path, resume=True) == 9
    assert [row["step"] for row in read_log(tmp_path)] == list(range(1, 10))


def test_minutes_become_steps_by_the_pace(tmp_path, monkeypatch):
    """On a clock of one second a step: 60 steps for a minute, and 3 pictures a second."""
    now = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def tick(index):
        now[0] += 1
        return 1.0

    reports = []
    assert train(Counter(tick), tmp_path, minutes=1, report=reports.append) == 60
    assert reports[18]["steps"] is None and reports[19]["steps"] == 60
    assert all(row["pictures_per_second"] == 3 for row in reports)
    assert [row["seconds_left"] for row in reports[-3:]] == [2, 1, 0]


def test_minutes_hold_on_a_machine_that_gets_slower(tmp_path, monkeypatch):
    """A clock of one second a step and of four from the thirtieth on: 30 + 8 steps reach a minute."""
    now, shares = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def tick(index):
        now[0] += 1 if index < 30 else 4
        return 1.0

    class Slowing(Counter):
        def step(self, index, share):
            shares.append(share)
            return super().step(index, share)

    done = train(Slowing(tick), tmp_path, minutes=1, warmup=5)
    assert done == 38 and now[0] == 62  # within a step of the minute
    assert shares[-1] < shares[25]  # the learning rate fell to the new end


def test_the_loop_follows_the_learning_rate(tmp_path):
    trainer = Counter()
    train(trainer, tmp_path, steps=12, warmup=4)
    assert trainer.shares == [rate_share(index, 12, 4) for index in range(12)]


def test_the_rate_is_a_linear_warm_up_and_then_torch_s_cosine():
    assert [rate_share(index, 50, 4) for index in range(4)] == [0.25, 0.5, 0.75, 1.0]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=46)
    for index in range(4, 51):
        assert rate_share(index, 50, 4) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()
    assert rate_share(50, 50, 4) == 0


def test_without_an_end_the_rate_stays_full():
    assert {rate_share(index, None, 10) for index in range(10, 300, 7)} == {1.0}
    assert rate_share(0, 10, 0) == 1.0


def module(*values):
    net = torch.nn.Module()
    for name, value in zip("ab", values, strict=True):
        setattr(net, name, torch.nn.Parameter(torch.tensor([value])))
    return net


def test_a_moving_average_by_hand():
    """Decays of the first two steps are 1/10 and 2/11, the limit comes later."""
    net = module(1.0, 5.0)
    net.b.requires_grad_(False)
    average = MovingAverage(net, decay=0.15)
    assert average.values.keys() == {"a"}  # only what learns by gradient
    with torch.no_grad():
        net.a.fill_(3.0)
    average.update(0)
    assert average.values["a"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    average.update(1)
    assert average.values["a"].item() == pytest.approx(0.15 * 2.8 + 0.85 * 3)


def test_a_moving_average_swaps_there_and_back():
    net = module(1.0, 5.0)
    average = MovingAverage(net, decay=0.9)
    with torch.no_grad():
        net.a.fill_(2.0)
        net.b.fill_(7.0)
    with pytest.raises(KeyError), average.swapped():
        assert (net.a.item(), net.b.item()) == (1.0, 5.0)
        raise KeyError
    assert (net.a.item(), net.b.item()) == (2.0, 7.0)
    assert [value.item() for value in average.values.values()] == [1.0, 5.0]


def test_a_moving_average_takes_over_another():
    net = module(1.0, 5.0)
    average = MovingAverage(net, decay=0.9)
    kept = average.values["a"]
    average.load({"a": torch.tensor(4.0), "b": torch.tensor(2.0)})
    assert average.values["a"] is kept and kept.item() == 4.0
