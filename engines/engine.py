"""The engine as a library: a request in, a result out, with the models it used kept loaded."""

import collections
import contextlib
import dataclasses
import importlib.metadata
import json

import torch

from engines import additions, catalog, classical, requests
from engines.checkpoints import files, models
from engines.errors import AtelierError
from engines.pipelines import folders
from engines.pipelines.pipeline import Pipeline
from engines.runtime import PeakMemory, choose_device, device_name, memory_budget, precision, total_memory
from engines.tasks.adjust import adjust
from engines.tasks.codebook import codebook
from engines.tasks.generate import generate
from engines.tasks.inpaint import inpaint
from engines.tasks.locate import locate
from engines.tasks.measure import measure
from engines.tasks.reconstruct import reconstruct
from engines.tasks.refine import refine
from engines.tasks.resample import resample
from engines.tasks.upscale import spot, upscale

# the models that a request names, each with what it must be able to do, and the function that is given them
TASKS = {
    requests.GenerateRequest: ({"model": "generate"}, generate),
    requests.InpaintRequest: ({"model": "inpaint"}, inpaint),
    requests.ReconstructRequest: ({"model": "reconstruct"}, reconstruct),
    requests.ResampleRequest: ({"model": "resample"}, resample),
    requests.UpscaleRequest: ({"model": "upscale"}, upscale),
    requests.SpotRequest: ({"model": "upscale"}, spot),
    requests.RefineRequest: ({"model": "refine", "upscaler": "upscale"}, refine),
    requests.LocateRequest: ({"model": "locate"}, locate),
    requests.CodebookRequest: ({"model": "reconstruct"}, codebook),
}


class Engine:
    """Runs tasks on one device. `home` is the folder whose `models/` are in the catalog beside the shipped ones.

    With `paths`, models may be named by their paths, too: not where requests come from strangers.
    Models stay loaded until all of them take more than `budget` bytes; the least recently used goes first. On a GPU,
    the parts of a Stable Diffusion that takes more alone are there in turns.
    """

    def __init__(self, home=None, device="auto", budget=None, paths=True):
        self.home, self.paths = home, paths
        self.device = choose_device(device)
        self.budget = memory_budget(self.device) if budget is None else budget
        self._loaded = collections.OrderedDict()

    def run(self, request, on_progress=None):
        """The result of `request`. Raises `AtelierError` with a sentence, or `Cancelled` from `on_progress`."""
        if isinstance(request, requests.MeasureRequest):
            return measure(request, self.device)
        if isinstance(request, requests.EngineRequest):
            return self._engine(request)
        if isinstance(request, requests.AdjustRequest):
            return self._recorded(adjust(request), request)
        wanted, function = TASKS[type(request)]
        rows = {
            name: catalog.find(getattr(request, name), task, self.home, self.paths) for name, task in wanted.items()
        }
        if isinstance(request, requests.Drawn) and request.vae:
            rows["vae"] = catalog.autoencoder(request.vae, rows["model"], self.home, self.paths)
        request = dataclasses.replace(request, **{name: row.id for name, row in rows.items()})
        asked, added = additions.named(request, rows["model"], self.home)
        hashes = added.record()  # a file may be gone when the picture is there
        try:
            loaded = {name: self.load(row) for name, row in rows.items()}
            parts = dict(loaded)
            if "vae" in parts:
                parts["model"] = parts["model"].drawing_with(parts.pop("vae"))
            turns = getattr(parts["model"], "offload", None) or contextlib.nullcontext()
            with PeakMemory(self.device) as peak, added.to(parts["model"]), turns:
                result = function(asked, *parts.values(), on_progress)
        except torch.OutOfMemoryError as error:
            raise AtelierError("The device ran out of memory; ask for fewer or smaller pictures.") from error
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        hashes |= {f"{name}_sha256": model.sha256 for name, model in loaded.items()}
        return self._recorded(result, request, hashes, peak.bytes, _precision(loaded["model"]))

    def _engine(self, request):
        if request.act != "status":
            row = catalog.find(request.model, None, self.home, self.paths)
            if request.act == "load":
                self.load(row)
            elif row.path:
                self._loaded.pop(self._key(row), None)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        sizes = {
            model.name: sum(tensor.nbytes for tensor in models.own_weights(model).values())
            for model in self._loaded.values()
        }
        return requests.EngineResult(device_name(self.device), total_memory(self.device), self.budget, sizes)

    def load(self, row):
        """The model of a row of the catalog, on the device or to work there, loaded if it is not yet."""
        if row.path is None:
            return classical.METHODS[row.id]
        key = self._key(row)
        if key not in self._loaded:
            other = catalog.drawn_with(row, self.home)
            part = self.load(other) if other else None
            if row.family == Pipeline.family:
                model = folders.load(row.path, precision(self.device)).to(self.device)
                model.sha256 = files.sha256(row.path)
            else:
                room = self.budget if self.device.type == "cuda" else None  # elsewhere it is the machine's memory
                model = models.load(row.path, part, self.device, precision(self.device), room)
            model.name = row.id
            self._loaded[key] = model
        self._loaded.move_to_end(key)
        while len(self._loaded) > 1 and self._held() > self.budget:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    @staticmethod
    def _key(row):
        return row.family, row.path, files.stamp(row.path), files.stamp(row.beside or row.path)

    def _held(self):
        # bytes of the loaded models; an autoencoder that several draw with is there once
        tensors = (tensor for model in self._loaded.values() for tensor in model.state_dict().values())
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

    def _recorded(self, result, request, hashes=None, memory=None, computed="float32"):
        def record(request):
            return {
                "request": json.loads(requests.to_json(request)),
                **(hashes or {"model_sha256": ""}),
                "device": self.device.type,
                "precision": computed,
                "versions": {"atelier": requests.VERSION, "torch": importlib.metadata.version("torch")},
            }

        if isinstance(result, requests.GenerateResult):
            pictures = tuple(
                dataclasses.replace(picture, record=record(requests.alone(request, index)))
                for index, picture in enumerate(result.pictures)
            )
            result = dataclasses.replace(result, pictures=pictures)
        return dataclasses.replace(result, record=record(request), memory=memory)


def _precision(model):
    """The name of what a model computes in."""
    return str(getattr(model, "precision", torch.float32)).removeprefix("torch.")
