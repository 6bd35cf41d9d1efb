"""What a prompt names beside its words: files of the catalog that change a model while it draws."""

import contextlib
import dataclasses
import difflib
from dataclasses import dataclass

from engines import catalog, requests
from engines.checkpoints import files, lora
from engines.errors import BadRequest, unknown
from engines.text import prompt

CHANGED = ("stable-diffusion", "latent-diffusion")  # the families that can be
NEAR = 5  # names that are told where one is unknown


@dataclass(frozen=True)
class Additions:
    """Rows of the catalog: `loras` with their weights."""

    loras: tuple = ()

    def record(self):
        """The hash of each file by its name, and the weight of a LoRA, as a picture's record holds them."""
        told = {row.id: {"sha256": files.sha256(lora.whole(row.path)), "weight": weight} for row, weight in self.loras}
        return {"additions": told} if told else {}

    @contextlib.contextmanager
    def to(self, model):
        """Inside, `model` is changed by them; after it, it is what it was. Raises `BadCheckpoint` as they do."""
        with lora.merged(model, [(row.path, weight) for row, weight in self.loras]):
            yield


def named(request, row, home=None):
    """`(request, additions)`: a request for the model of `row` with words alone, and what it named beside them.

    Raises `BadRequest` for an unknown name, for a model that cannot be changed, and where the choices of a prompt give
    its pictures different LoRAs: they are drawn by one model.
    """
    asked = request if getattr(request, "count", 1) > 1 else requests.alone(request, 0)
    words, weights = prompt.loras(getattr(asked, "prompt", ""))
    if prompt.loras(getattr(asked, "negative", ""))[1]:
        raise BadRequest("A LoRA stands in the prompt alone; to keep away from it there, give it a negative weight.")
    for index in range(getattr(asked, "count", 1)):
        if weights and prompt.loras(requests.alone(asked, index).prompt)[1] != weights:
            raise BadRequest(
                "The choices of this prompt give its pictures different LoRAs; ask for one picture at a time."
            )
    if not weights:
        return request, Additions()
    rows = catalog.catalog(home)
    if row.family not in CHANGED:
        able = [known.id for known in rows.values() if known.family in CHANGED]
        raise BadRequest(
            f"“{row.id}” cannot be changed by a LoRA; take <lora:…> out of the prompt, or draw with one of: "
            f"{', '.join(able)}."
        )
    found = tuple((_found(name, "LoRA", lora.FAMILY, rows), weight) for name, weight in sorted(weights.items()))
    return dataclasses.replace(asked, prompt=words), Additions(found)


def _found(name, what, family, rows):
    known = {row.id: row for row in rows.values() if row.family == family}
    if name in known:
        return known[name]
    if not known:
        raise BadRequest(f"There is no {what} called “{name}”, nor any other; put its file into models/ of the home.")
    raise unknown(what, name, difflib.get_close_matches(name, known, NEAR, 0))
