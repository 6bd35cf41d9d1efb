"""What a prompt names beside its words: files of the catalog that change a model while it draws."""

import contextlib
import dataclasses
import difflib
from dataclasses import dataclass, field

from engines import catalog, requests
from engines.checkpoints import embeddings, files, foreign, lora
from engines.errors import BadRequest, unknown
from engines.text import prompt

CHANGED = ("stable-diffusion", "latent-diffusion", "few-step-diffusion")  # the families that can be
TEXTS = ("prompt", "negative")  # the fields of requests where files are named
WHAT = {lora.FAMILY: "LoRA", embeddings.FAMILY: "embedding"}
NEAR = 5  # names that are told where one is unknown


@dataclass(frozen=True)
class Additions:
    """Rows of the catalog: `loras` with their weights, and `embeddings` by the signs that stand for them."""

    loras: tuple = ()
    embeddings: dict = field(default_factory=dict)

    def record(self):
        """The hash of each file by its name, and the weight of a LoRA, as a picture's record holds them."""
        known = files.known_sha256
        told = {row.id: {"sha256": known(lora.whole(row.path)), "weight": weight} for row, weight in self.loras}
        told |= {row.id: {"sha256": known(row.path)} for row in self.embeddings.values()}
        return {"additions": told} if told else {}

    @contextlib.contextmanager
    def to(self, model):
        """Inside, `model` is changed by them; after it, it is what it was. Raises `BadCheckpoint` as they do."""
        signs = {sign: row.path for sign, row in self.embeddings.items()}
        with lora.merged(model, [(row.path, weight) for row, weight in self.loras]), embeddings.readable(model, signs):
            yield


def named(request, row, home=None):
    """`(request, additions)`: a request for the model of `row` with words and signs alone, and what it named.

    Raises `BadRequest` for an unknown name, for a model that cannot be changed, and where the choices of a prompt give
    its pictures different LoRAs: they are drawn by one model.
    """
    asked = request if getattr(request, "count", 1) > 1 else requests.alone(request, 0)
    texts = {item.name: getattr(asked, item.name) for item in dataclasses.fields(asked) if item.name in TEXTS}
    weights = _weights(asked, texts)
    if not weights and not any(map(prompt.EMBEDDING.search, texts.values())):
        return request, Additions()
    rows = catalog.catalog(home)
    if row.family not in CHANGED:
        able = [known.id for known in rows.values() if known.family in CHANGED]
        raise BadRequest(
            f"“{row.id}” cannot be changed by a LoRA or an embedding; take <lora:…> and embedding:… out of the prompt, "
            f"or draw with one of: {', '.join(able)}."
        )
    loras = tuple((_found(name, lora.FAMILY, rows), weight) for name, weight in sorted(weights.items()))
    signs = {}
    for name, text in texts.items():
        texts[name], more = _signed(prompt.loras(text)[0], rows)
        signs |= more
    return dataclasses.replace(asked, **texts), Additions(loras, signs)


def reading(text, tokenizer, home=None):
    """`(words, tokenizer)`: a prompt without choices as a model would read it, and a tokenizer that counts its signs.

    Raises `BadRequest` for an unknown embedding, and for a LoRA that is not written to its end.
    """
    words, _ = prompt.loras(text)
    if not prompt.EMBEDDING.search(words):
        return words, tokenizer
    words, signs = _signed(words, catalog.catalog(home))
    lengths = {sign: foreign.recognised(row.path)[0].config["vectors"] for sign, row in signs.items()}
    return words, tokenizer.adding({sign: range(length) for sign, length in lengths.items()})


def _weights(asked, texts):
    # of all LoRAs of the prompt by their names
    weights = prompt.loras(texts.get("prompt", ""))[1]
    if prompt.loras(texts.get("negative", ""))[1]:
        raise BadRequest("A LoRA stands in the prompt alone; to keep away from it, give it a negative weight there.")
    for index in range(asked.count if weights and isinstance(asked, requests.Drawn) else 0):
        if prompt.loras(requests.alone(asked, index).prompt)[1] != weights:
            raise BadRequest(
                "The choices of this prompt give its pictures different LoRAs; ask for one picture at a time."
            )
    return weights


def _signed(text, rows):
    # a text with its embeddings as signs, and the row of each
    known = sorted(row.id for row in rows.values() if row.family == embeddings.FAMILY)
    text, signs = prompt.signed(text, known)
    if strange := prompt.EMBEDDING.search(text):
        _found(strange[1].rstrip("}."), embeddings.FAMILY, rows)
    return text, {sign: rows[name] for sign, name in signs.items()}


def _found(name, family, rows):
    known, what = [row.id for row in rows.values() if row.family == family], WHAT[family]
    if not known:
        raise BadRequest(f"There is no {what} called “{name}”, nor any other; put its file into models/ of the home.")
    if name not in known:
        raise unknown(what, name, difflib.get_close_matches(name, known, NEAR, 0))
    return rows[name]
