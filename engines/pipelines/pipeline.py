"""A pipeline of diffusers with what the engine asks of its models."""

import inspect

import torch

SIDE = 64  # latents a side of the pictures that a pipeline learned, where it does not tell: those of Stable Diffusion
LARGEST = 2048  # pixels a side that one works at


class Pipeline:
    """A pipeline of diffusers, `pipe`, as its folder says; one that is `adapted` has an IP-Adapter."""

    family = "diffusers"

    def __init__(self, pipe, adapted=False):
        self.pipe, self.adapted = pipe, adapted
        self.scheduler = pipe.scheduler
        self._others = {}

    def to(self, device):
        self.pipe.to(device)
        return self

    def state_dict(self):
        """The weights of all nets of the pipeline, by part and name."""
        nets = {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}
        return {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}

    @property
    def net(self):
        """The net that takes the noise away."""
        return self.pipe.unet if hasattr(self.pipe, "unet") else self.pipe.transformer

    @property
    def fills(self):
        """Whether what it draws are tokens, by masks over them."""
        return hasattr(self.pipe, "vqvae")

    @property
    def precision(self):
        """The dtype that the nets compute in."""
        return self.net.dtype

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.pipe.vae_scale_factor * self.net.config.get("patch_size", 1)

    @property
    def inpaints(self):
        """Whether the net sees what lies around a hole, and draws no other way."""
        return "mask_image" in takes(self.pipe)

    @property
    def shown(self):
        """What the pipeline calls the picture that it cannot draw without: to be like, or guided by; else None."""
        if self.adapted:
            return "ip_adapter_image"
        return "image" if "controlnet_conditioning_scale" in takes(self.pipe) else None

    @property
    def size(self):
        """Pixels a side of the pictures that it learned to draw."""
        side = self.net.config.get("sample_size")
        return min((side if isinstance(side, int) else SIDE) * self.pipe.vae_scale_factor, LARGEST)

    @property
    def device(self):
        """Where the nets are."""
        return self.pipe.device

    def reads(self, text):
        """`(count, longest)`: how many tokens a text has, and how many of them are read, by what reads the most."""
        readers = [getattr(self.pipe, name, None) for name in ("tokenizer_3", "tokenizer_2", "tokenizer")]
        reader = next(filter(None, readers))
        most = inspect.signature(type(self.pipe).__call__).parameters.get("max_sequence_length")
        longest = min(reader.model_max_length, most.default) if most else reader.model_max_length
        return len(reader(text).input_ids), longest

    def decode(self, latents):
        """Pictures `(B, 3, H, W)` of the pipeline's latents, or of tokens `(B, h, w)`."""
        if self.fills:
            vae = self.pipe.vqvae
            codes = latents.clamp(max=vae.config.num_vq_embeddings - 1)  # what is still hidden is no code
            shape = (*codes.shape, vae.config.latent_channels)
            return 2 * vae.decode(codes, force_not_quantize=True, shape=shape).sample.float().clip(0, 1) - 1
        vae = self.pipe.vae
        latents = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        halved = vae.dtype == torch.float16 and vae.config.get("force_upcast")  # one that overflows in half precision
        if halved:
            vae.to(torch.float32)
        decoded = vae.decode(latents.to(vae.dtype)).sample.float()
        if halved:
            vae.to(torch.float16)
        return decoded

    def of(self, task):
        """The pipeline of diffusers that draws by the same parts for one of its automatic classes, a `task`.

        None where diffusers has none.
        """
        import diffusers

        if task not in self._others:
            try:
                self._others[task] = getattr(diffusers, f"AutoPipelineFor{task}").from_pipe(self.pipe)
            except ValueError:
                return None
            self._others[task].set_progress_bar_config(disable=True)
        return self._others[task]


def takes(pipe):
    """The names of what a pipeline can be called with."""
    return inspect.signature(type(pipe).__call__).parameters.keys()
