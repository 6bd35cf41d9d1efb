"""LoRA: the same change of the same model as the peer's, in every layout, and nothing left of it afterwards."""

import json
import re

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from engines import catalog
from engines.checkpoints import lora, models
from engines.errors import BadCheckpoint
from tests.engines.checkpoints.test_stable_diffusion import BETAS, Parts, at_home, near, tokenizer_files  # noqa: F401
from tests.peers import published_key

LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "time_emb_proj"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "conv", "conv_in"]
WORDS = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]


def adapted(net, seed, **options):
    """The state of a random LoRA on a net of the peer, which is left as it was."""
    torch.manual_seed(seed)
    net.add_adapter(LoraConfig(r=4, **options), "new")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    state = get_peft_model_state_dict(net, adapter_name="new")
    state = {name: value.detach().clone().contiguous() for name, value in state.items()}
    net.delete_adapter("new") if hasattr(net, "delete_adapter") else net.delete_adapters("new")
    return state


class Made:
    """A Stable Diffusion, as the peer has it and as a file of a home, and random LoRAs of it."""

    def __init__(self, version, home, vocabulary):
        self.home, self.parts = home, Parts(version, 4, vocabulary)
        parts, self.folder = self.parts, at_home(self.parts, home, vocabulary)
        self.unet = adapted(parts.unet, 1, lora_alpha=4, target_modules=LINEAR)
        self.text = adapted(parts.text, 2, lora_alpha=4, target_modules=WORDS)
        self.loose = adapted(parts.unet, 3, lora_alpha=4, target_modules=CONVOLUTIONS)
        scheduler = EulerDiscreteScheduler(**BETAS)
        self.pipe = StableDiffusionPipeline(
            vae=parts.vae, text_encoder=parts.text, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        self.pipe.save_lora_weights(self.folder, self.unet, self.text, weight_name="ink.safetensors")
        self.pipe.save_lora_weights(self.folder, self.loose, weight_name="loose.safetensors")

    def whole(self):
        return {f"unet.{name}": value for name, value in self.unet.items()} | {
            f"text_encoder.{name}": value for name, value in self.text.items()
        }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer_files):  # noqa: F811
    return Made(1, tmp_path_factory.mktemp("home"), tokenizer_files)


@pytest.fixture(scope="module")
def ours(made):
    return models.load(made.folder / "sd.safetensors")


X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
AT = torch.tensor([421.0])


def of_ours(model):
    """What the UNet and the text encoder say."""
    with torch.no_grad():
        told = model.words(["red fox"])["context"]
        return model.unet(X, AT, told), told


def of_the_peer(made, **weights):
    """With the peer's own loader and the LoRAs of those names and weights."""
    pipe = made.pipe
    for name in weights:
        pipe.load_lora_weights(made.folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(weights), list(weights.values()))
    try:
        told = made.parts.words(["red fox"])
        with torch.no_grad():
            return pipe.unet(X, AT, told).sample, told
    finally:
        pipe.unload_lora_weights()


def merge(model, *paths):
    with lora.merged(model, [(path, 1.0) for path in paths]):
        pass


def alike(found, expected):
    for one, other in zip(found, expected, strict=True):
        near(one, other)


@torch.no_grad()
@pytest.mark.parametrize("weights", [{"ink": 1.0}, {"ink": -0.7}, {"loose": 0.5}, {"ink": 0.8, "loose": 0.6}], ids=str)
def test_a_lora_changes_a_model_as_the_peer_does(made, ours, weights):
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    plain = of_ours(ours)
    with lora.merged(ours, [(made.folder / f"{name}.safetensors", weight) for name, weight in weights.items()]):
        changed = of_ours(ours)
    alike(changed, of_the_peer(made, **weights))
    assert (changed[0] - plain[0]).norm() / plain[0].norm() > 0.01
    after = ours.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_a_lora_changes_version_2_as_the_peer_does(tmp_path, tokenizer_files):  # noqa: F811
    made = Made(2, tmp_path, tokenizer_files)
    model = models.load(made.folder / "sd.safetensors")
    with lora.merged(model, [(made.folder / "ink.safetensors", 0.8), (made.folder / "loose.safetensors", 0.6)]):
        alike(of_ours(model), of_the_peer(made, ink=0.8, loose=0.6))


def with_alphas(state):
    """What has no alpha gets one that halves it, and factors that are twice as large."""
    found = {}
    for name, value in state.items():
        found[name] = value * 2 if "lora_B" in name else value
        found[re.sub(r"\.lora_[AB]\.weight", ".alpha", name)] = torch.tensor(2.0)
    return found


def kohya(made, by="diffusers"):
    """As kohya writes it, with diffusers' names of the UNet or the published ones."""
    state = {}
    for name, value in with_alphas(made.whole()).items():
        net, _, name = name.partition(".")
        for theirs, factor in ((".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")):
            name = name.replace(theirs, factor)
        ending = ".alpha" if name.endswith(".alpha") else name[name.index(".lora_") :]
        layer = name.removesuffix(ending)
        if net == "text_encoder":
            layer = f"text_model.{layer.removeprefix('text_model.')}"
        if net == "unet" and by == "published":
            layer = published_key(f"{layer}.weight", made.parts.config).removesuffix(".weight")
        state[f"{'lora_unet' if net == 'unet' else 'lora_te'}_{layer.replace('.', '_')}{ending}"] = value
    return state


def old_diffusers(made):
    """As diffusers wrote it before PEFT: attention by processors, the text encoder by linear layers."""
    state = {}
    for name, value in made.whole().items():
        name = name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        name = re.sub(r"attn(\d)\.to_([qkv])\.lora\.", r"attn\1.processor.to_\2_lora.", name)
        name = re.sub(r"attn(\d)\.to_out\.0\.lora\.", r"attn\1.processor.to_out_lora.", name)
        if name.startswith("text_encoder."):
            name = re.sub(r"self_attn\.([qkv])_proj\.lora\.", r"self_attn.to_\1_lora.", name)
            name = name.replace("self_attn.out_proj.lora.", "self_attn.to_out_lora.")
            name = name.replace(".lora.", ".lora_linear_layer.")
        state[name] = value
    return state


LAYOUTS = {
    "kohya": kohya,
    "kohya, published names": lambda made: kohya(made, "published"),
    "kohya by the peer": lambda made: convert_state_dict_to_kohya(
        {f"unet.{name}": value for name, value in made.unet.items()}
    ) | {name: value for name, value in kohya(made).items() if name.startswith("lora_te")},
    "PEFT with its adapter's name": lambda made: {
        name.replace(".weight", ".default.weight"): value for name, value in made.whole().items()
    },
    "diffusers": lambda made: convert_state_dict_to_diffusers(made.whole()),
    "diffusers before PEFT": old_diffusers,
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_the_same(made, ours, tmp_path, layout):
    save_file(LAYOUTS[layout](made), tmp_path / "ink.safetensors")
    assert catalog.read(tmp_path / "ink.safetensors").family == "lora"
    with lora.merged(ours, [(made.folder / "ink.safetensors", 0.8)]):
        expected = of_ours(ours)
    with lora.merged(ours, [(tmp_path / "ink.safetensors", 0.8)]):
        alike(of_ours(ours), expected)


def test_a_lora_of_peft_alone_brings_its_settings(made, ours, tmp_path):
    folder = tmp_path / "brush"
    folder.mkdir()
    save_file({f"base_model.model.{k}": v for k, v in made.unet.items()}, folder / "adapter_model.safetensors")
    assert catalog.read(folder / "adapter_model.safetensors").id == "brush"
    save_file({f"unet.{k}": v for k, v in made.unet.items()}, tmp_path / "ink.safetensors")
    for settings, scale in (({}, 1.0), ({"r": 4, "lora_alpha": 2}, 0.5),
                            ({"r": 4, "lora_alpha": 2, "use_rslora": True}, 1.0)):  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        with lora.merged(ours, [(tmp_path / "ink.safetensors", scale)]):
            expected = of_ours(ours)
        with lora.merged(ours, [(folder / "adapter_model.safetensors", 1.0)]):
            alike(of_ours(ours), expected)
    (folder / "adapter_config.json").write_text('{"lora_alpha": "much"}')
    with pytest.raises(BadCheckpoint, match="tell no scale"):
        merge(ours, folder / "adapter_model.safetensors")


def test_the_settings_in_a_header_of_the_peer_are_read(made, ours, tmp_path):
    state = adapted(made.parts.unet, 5, lora_alpha=12, target_modules=LINEAR, alpha_pattern={"to_q": 1})
    settings = {"r": 4, "lora_alpha": 12, "target_modules": LINEAR, "alpha_pattern": {"to_q": 1}}
    made.pipe.save_lora_weights(
        made.folder, state, weight_name="scaled.safetensors", unet_lora_adapter_metadata=settings
    )  # fmt: skip
    with lora.merged(ours, [(made.folder / "scaled.safetensors", 0.3)]):
        alike(of_ours(ours), of_the_peer(made, scaled=0.3))


def test_a_third_factor_stands_between_the_two(made, ours, tmp_path):
    generator = torch.Generator().manual_seed(0)
    name, layer = "lora_unet_down_blocks_0_resnets_0_conv1", ours.unet.input_blocks[1][0].in_layers[2]
    out, inner = layer.weight.shape[:2]
    up, mid, down = (
        torch.randn(shape, generator=generator) for shape in ((out, 3, 1, 1), (3, 5, 3, 3), (5, inner, 1, 1))
    )
    factors = {"lora_up": up, "lora_mid": mid, "lora_down": down}
    save_file({f"{name}.{factor}.weight": value for factor, value in factors.items()}, tmp_path / "mid.safetensors")
    x = torch.randn(1, inner, 8, 8, generator=generator)
    conv = torch.nn.functional.conv2d
    expected = layer(x) + 0.5 * conv(conv(conv(x, down), mid, padding=1), up)
    with lora.merged(ours, [(tmp_path / "mid.safetensors", 0.5)]):
        near(layer(x), expected)


# ---------------------------------------------------------------- refused


def test_what_does_not_fit_is_named(made, ours, tmp_path):
    state = load_file(made.folder / "ink.safetensors")
    names = sorted(state)
    shorter = {name: value[:, :-1].contiguous() if name.endswith("mid_block.attentions.0.proj_in.lora_A.weight")
               else value for name, value in state.items()}  # fmt: skip
    wrong = {
        "a layer that is not there": state | {"unet.down_blocks.7.resnets.0.conv1.lora_A.weight": torch.ones(2, 2)},
        "a factor alone": {name: value for name, value in state.items() if name != names[0]},
        "other tensors": state | {"unet.conv_in.dora_scale": torch.ones(2)},
        "another width": shorter,
    }
    for state in wrong.values():
        save_file(state, tmp_path / "bad.safetensors")
        before = {name: value.clone() for name, value in ours.unet.state_dict().items()}
        with pytest.raises(BadCheckpoint, match="bad.safetensors does not fit “sd”.* for (unet|text_encoder).*;"):
            merge(ours, made.folder / "ink.safetensors", tmp_path / "bad.safetensors")
        assert all(torch.equal(value, before[name]) for name, value in ours.unet.state_dict().items())
    save_file({f"{name}.{kind}.weight": torch.ones(2, 2) for name in "abcd" for kind in ("lora_up", "lora_down")},
              tmp_path / "other.safetensors")  # fmt: skip
    with pytest.raises(BadCheckpoint, match=r"for [^,]*, [^,]*, [^,]* and 5 more;"):
        merge(ours, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match="no model by itself.*<lora:other:1> into a prompt"):
        models.load(tmp_path / "other.safetensors")
