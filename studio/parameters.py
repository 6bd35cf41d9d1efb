"""Settings as other studios write them into PNG files: A1111's `parameters` text, and ComfyUI's graph."""

import json
import re

from engines import requests
from engines.errors import BadPicture
from engines.requests import GenerateRequest

# our names and those of A1111 and of ComfyUI
SAMPLERS = {
    "dpmpp_2m": ("DPM++ 2M", "dpmpp_2m"),
    "dpmpp_2m_sde": ("DPM++ 2M SDE", "dpmpp_2m_sde"),
    "euler": ("Euler", "euler"),
    "euler_ancestral": ("Euler a", "euler_ancestral"),
    "heun": ("Heun", "heun"),
    "dpm_2": ("DPM2", "dpm_2"),
    "lms": ("LMS", "lms"),
    "ddim": ("DDIM", "ddim"),
    "ddpm": ("DDPM", "ddpm"),
    "unipc": ("UniPC", "uni_pc"),
    "lcm": ("LCM", "lcm"),
}
SCHEDULES = {
    "linear": ("Uniform", "normal"),
    "karras": ("Karras", "karras"),
    "exponential": ("Exponential", "exponential"),
    "simple": ("Simple", "simple"),
    "sgm_uniform": ("SGM Uniform", "sgm_uniform"),
}
A1111, COMFY = 0, 1
# a name, a colon, and a value that may be quoted
PAIR = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def to_text(record):
    """The `parameters` text of A1111 for a picture of the Generate tab; None for any other."""
    request = record["request"]
    if not request.keys() >= {"task", *GenerateRequest.__dataclass_fields__} or request["task"] != "generate":
        return None
    facts = {
        "Steps": request["steps"],
        "Sampler": SAMPLERS[request["sampler"]][A1111],
        "Schedule type": SCHEDULES[request["scheduler"]][A1111],
        "CFG scale": request["cfg_scale"],
        "Seed": request["seed"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": record.get("model_sha256", "")[:10],
        "Model": request["model"],
        "VAE": request["vae"],
        "Denoising strength": request["strength"] if request["image"] else "",
        "Version": f"atelier {record.get('versions', {}).get('atelier', '')}",
    }
    words = ", ".join(filter(None, (request["prompt"], request["style"])))
    lines = [words] + [f"Negative prompt: {request['negative']}"] * bool(request["negative"])
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in facts.items() if value != "")])


def read(texts):
    """The `GenerateRequest` in the texts of another studio's PNG, and the names of settings that have no place in it.

    Numbers outside of our bounds are brought to the nearest within. Raises `BadPicture` if there is nothing
    to read.
    """
    found, lost = None, []
    if "parameters" in texts:
        found, lost = _from_a1111(texts["parameters"])
    elif "prompt" in texts:
        found, lost = _from_comfy(texts["prompt"])
    if not found:
        raise BadPicture(
            "This picture holds no settings: PNG files made by Atelier, A1111 or ComfyUI, unchanged since, hold them."
        )
    fields, strange = _fitting(found)
    if requests.wordless(fields.get("prompt", ""), ""):
        fields["cfg_scale"] = 1.0
    return GenerateRequest(**fields), lost + strange


def _from_a1111(text):
    lines = text.strip().split("\n")
    last = dict(PAIR.findall(lines[-1])) if "Steps:" in lines[-1] else {}
    if not last:
        return None, []
    prompt, _, negative = "\n".join(lines[:-1]).partition("Negative prompt:")
    last = {name.strip(): value.strip().strip('"') for name, value in last.items()}
    sampler, schedule = last.pop("Sampler", ""), last.pop("Schedule type", "")
    for names in SCHEDULES.values():  # older files say both in one name
        if not schedule and sampler.endswith(" " + names[A1111]):
            sampler, schedule = sampler.removesuffix(" " + names[A1111]), names[A1111]
    width, _, height = last.pop("Size", "").partition("x")
    found = {
        "prompt": prompt.strip(), "negative": negative.strip(), "steps": last.pop("Steps", ""),
        "cfg_scale": last.pop("CFG scale", ""), "seed": last.pop("Seed", ""), "width": width, "height": height,
        "sampler": _ours(SAMPLERS, A1111, sampler), "scheduler": _ours(SCHEDULES, A1111, schedule),
    }  # fmt: skip
    return found, [name for name in last if name not in ("Version", "Model hash")]


def _from_comfy(text):
    try:
        nodes = json.loads(text)
        sampling = [node for node in nodes.values() if "KSampler" in node["class_type"]]
        inputs = sampling[0]["inputs"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None, []

    def behind(link, name):
        # the value `name` of the node that a link leads to, or of one further back
        seen = set()
        while isinstance(link, list) and link and str(link[0]) in nodes and str(link[0]) not in seen:
            seen.add(str(link[0]))
            node = nodes[str(link[0])].get("inputs", {})
            if name in node and not isinstance(node[name], list):
                return node[name]
            link = node.get(name) or next((value for value in node.values() if isinstance(value, list)), None)
        return ""

    found = {
        "prompt": behind(inputs.get("positive"), "text"), "negative": behind(inputs.get("negative"), "text"),
        "steps": inputs.get("steps"), "cfg_scale": inputs.get("cfg"),
        "seed": inputs.get("seed", inputs.get("noise_seed")),
        "width": behind(inputs.get("latent_image"), "width"), "height": behind(inputs.get("latent_image"), "height"),
        "sampler": _ours(SAMPLERS, COMFY, inputs.get("sampler_name")),
        "scheduler": _ours(SCHEDULES, COMFY, inputs.get("scheduler")),
    }  # fmt: skip
    kinds = {node.get("class_type", "") for node in nodes.values()}
    known = {"CLIPTextEncode", "EmptyLatentImage", "VAEDecode", "SaveImage", "PreviewImage"}
    return found, sorted(kind for kind in kinds - known if "KSampler" not in kind)


def _ours(table, studio, name):
    return next((ours for ours, names in table.items() if names[studio] == name), name or None)


def _fitting(found):
    # the values that a request takes, and the names of those that it does not
    fields, strange = {}, []
    for name, value in found.items():
        row = requests.control(GenerateRequest, name)
        if value in (None, ""):
            continue
        if "choices" in row:
            if value in row["choices"]:
                fields[name] = value
            else:
                strange.append(name)
        elif "low" in row:
            try:
                number = type(row["default"])(float(value))
            except (ValueError, TypeError, OverflowError):
                strange.append(name)
                continue
            if name == "seed":
                number = int(value) % 2**32
            step = row["step"] if name in ("width", "height") else 0
            number = round(number / step) * step if step else number
            fields[name] = min(max(number, row["low"]), row["high"])
        else:
            fields[name] = str(value)
    return fields, strange
