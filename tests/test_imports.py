"""Who may import whom: every arrow of the design's first section, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = ("app", "studio", "engines", "tests")
PEERS = ("diffusers", "transformers", "peft")  # imported in tests only
SURROUNDINGS = ("sys.argv", "os.environ", "os.environb", "os.getenv", "argparse")
TORCH = ("torch", "torchmetrics", "safetensors.torch", *PEERS)
NETS = ("engines.vqgan", "engines.text.encoder", "engines.diffusion.unet")

# A name stands for itself and all that lies in it.
NEVER = {
    "app": (*PEERS, "tests"),
    "studio": (*TORCH, "app", "tests"),
    "engines": (*PEERS, *SURROUNDINGS, "gradio", "studio", "app", "tests"),
    "engines.requests": TORCH,
    "engines.errors": TORCH,
    "engines.diffusion.denoisers": (*NETS, "engines.diffusion.latent"),
    "engines.diffusion.schedules": (*NETS, "engines.diffusion.latent"),
    "engines.diffusion.guidance": (*NETS, "engines.diffusion.latent"),
    "engines.diffusion.samplers": (*NETS, "engines.diffusion.latent"),
    "engines.tasks": ("engines.worker", "engines.catalog", "engines.engine"),
}
# What a room, with all that lies in it, may use although the house may not: here the peer is an engine, not a judge.
BUT = {"engines.pipelines": ("diffusers", "transformers")}
# Of the project, these import nothing else.
ONLY = {
    "engines.errors": (),
    "engines.tensors": ("engines.errors",),
    "engines.requests": ("engines.errors",),
    "engines.vqgan": ("engines.tensors", "engines.errors", "engines.text", "engines.vqgan"),
    "engines.text.encoder": ("engines.tensors", "engines.errors", "engines.text"),
    "engines.diffusion.unet": ("engines.tensors", "engines.errors"),
}
# The process of the page is up in seconds: nothing that these load, however far down, loads torch.
LIGHT = ("studio", "engines.worker", "engines.catalog", "engines.requests")


SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("app.py"), *ROOT.glob("studio/**/*.py"), *ROOT.glob("engines/**/*.py")])
}


def within(name, places):
    return any(name == place or name.startswith(place + ".") for place in places)


def used(module, source, on_loading=False):
    """The dotted names that `source` imports, or reaches as attributes of what it imported.

    With `on_loading` only those of statements that run when the module itself is imported: none in functions.
    """
    tree = ast.parse(source)
    nodes = list(_outside_functions(tree) if on_loading else ast.walk(tree))
    names, known = set(), {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                first = alias.name.partition(".")[0]
                known |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            home = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                names.add(f"{home}.{alias.name}")
                known[alias.asname or alias.name] = f"{home}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {str(part.value) for part in node.args if isinstance(part, ast.Constant)}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in known:
                names.add(f"{known[first]}.{rest}")
    return names


def _outside_functions(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _outside_functions(child)


def broken(module, source):
    """What the module uses and must not."""
    names = used(module, source)
    refused = {name for who, what in NEVER.items() if within(module, [who]) for name in names if within(name, what)}
    for who, excused in BUT.items():
        if within(module, [who]):
            refused = {name for name in refused if not within(name, excused)}
    for who, allowed in ONLY.items():
        if within(module, [who]):
            refused |= {name for name in names if within(name, PROJECT) and not within(name, allowed)}
    return sorted(refused)


def loaded(module, sources):
    """Every name that importing `module` imports, through modules of the project."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if within(name, PROJECT):  # a name in a module loads the module, and that the packages it lies in
            waiting.append(name.rpartition(".")[0])
        for file in {name, f"{name}.__init__"} & sources.keys():
            waiting += used(file, sources[file], on_loading=True)
    return seen


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_what_it_may(module):
    assert broken(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", [module for module in SOURCES if within(module, LIGHT)])
def test_the_process_of_the_page_loads_no_torch(module):
    assert sorted(name for name in loaded(module, SOURCES) if within(name, TORCH)) == []


@pytest.mark.parametrize("module", sorted({*NEVER, *BUT, *ONLY, *NETS, *LIGHT} - {"app"}))
def test_the_tables_name_modules_that_exist(module):
    assert module in SOURCES or f"{module}.__init__" in SOURCES


@pytest.mark.parametrize("module, source, arrow", [
    ("engines.tensors", "from engines import runtime", "engines.runtime"),
    ("engines.errors", "import engines.tensors", "engines.tensors"),
    ("engines.requests", "from engines.tensors import noise", "engines.tensors.noise"),
    ("engines.requests", "import torch", "torch"),
    ("engines.tasks.generate", "from engines import catalog, tensors", "engines.catalog"),
    ("engines.tasks.generate", "def later():\n    from engines.worker import Worker", "engines.worker.Worker"),
    ("engines.tasks.generate", "from .. import catalog", "engines.catalog"),
    ("engines.tasks.__init__", "from ..worker import Worker", "engines.worker.Worker"),
    ("engines.vqgan.autoencoder", "from engines.diffusion.unet import UNet", "engines.diffusion.unet.UNet"),
    ("engines.text.encoder", "from engines.vqgan import quantizer", "engines.vqgan.quantizer"),
    ("engines.diffusion.unet", "from engines.diffusion import schedules", "engines.diffusion.schedules"),
    ("engines.diffusion.samplers", "from engines.diffusion.unet import UNet", "engines.diffusion.unet.UNet"),
    ("engines.diffusion.guidance", "import engines.text.encoder as text", "engines.text.encoder"),
    ("engines.worker", "from studio.jobs import Jobs", "studio.jobs.Jobs"),
    ("engines.worker", "import app", "app"),
    ("engines.worker", "import gradio as gr", "gradio"),
    ("engines.runtime", "import sys\nprint(sys.argv[1:])", "sys.argv"),
    ("engines.runtime", "import os\nos.environ.get('HOME')", "os.environ.get"),
    ("engines.runtime", "import os as system\nsystem.getenv('HOME')", "os.getenv"),
    ("engines.runtime", "from os import environ", "os.environ"),
    ("engines.training.loop", "import diffusers", "diffusers"),
    ("engines.pipelines.calls", "import peft", "peft"),
    ("engines.tasks.pipelines", "import diffusers", "diffusers"),
    ("engines.text.encoder", "from transformers import CLIPTextModel", "transformers.CLIPTextModel"),
    ("engines.training.loop", "import importlib\nimportlib.import_module('peft')", "peft"),
    ("studio.jobs", "import torch.nn.functional as F", "torch.nn.functional"),
    ("studio.jobs", "import app", "app"),
    ("app", "from diffusers import DDIMScheduler", "diffusers.DDIMScheduler"),
])
def test_the_checker_sees_a_forbidden_arrow(module, source, arrow):
    assert arrow in broken(module, source)


@pytest.mark.parametrize("module, source", [
    ("app", "from studio import layout\nimport engines.worker"),
    ("studio.jobs", "import gradio\nfrom engines.requests import GenerateRequest"),
    ("engines.tensors", "from engines import errors\nimport torch"),
    ("engines.vqgan.autoencoder", "from engines.vqgan.quantizer import VectorQuantizer\nfrom .quantizer import usage"),
    ("engines.tasks.generate", "from engines.diffusion import samplers\nfrom engines.requests import Picture"),
    ("engines.runtime", "import os\nimport sys\nos.path.join('a', 'b')\nsys.stderr.write('')"),
    ("engines.runtime", "gradio = 'a word'\ntorchlight = 1"),
    ("engines.pipelines.calls", "import diffusers\nfrom transformers import CLIPTextModel"),
])
def test_the_checker_lets_allowed_arrows_pass(module, source):
    assert broken(module, source) == []


def test_torch_is_found_however_far_down():
    sources = {
        "studio.jobs": "from engines.middle import step",
        "engines.__init__": "",
        "engines.middle": "if True:\n    from engines import bottom",
        "engines.bottom": "import torch.nn",
    }
    assert "torch.nn" in loaded("studio.jobs", sources)
    sources["engines.middle"] = "def later():\n    from engines import bottom"
    assert "torch.nn" not in loaded("studio.jobs", sources)
    sources["engines.__init__"] = "from . import bottom"  # a package is loaded with its modules
    assert "torch.nn" in loaded("studio.jobs", sources)
