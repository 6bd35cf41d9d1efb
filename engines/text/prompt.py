"""The language of prompts: schedules, composition and weights, as A1111 and its successors write them.

    [fox:wolf:0.5]          a fox for half of the steps, then a wolf
    a fox AND a forest:0.8  both at once, each by its own guidance (Liu et al., 2022, eq. 11)
    (red:1.3) [tail]        more of the red, less of the tail
    <lora:ink:0.8>          the LoRA called ink, with that weight; it is no word, and stands for the whole prompt
    embedding:ink           the vectors of the embedding called ink, in the place of a word

What is not written quite so stands for itself. Choices, `{red|blue}`, are taken by `requests.choose` before.
"""

import re

from engines.errors import BadRequest
from engines.text.captions import compose

SCHEDULE = re.compile(r"\[([^\[\]:]*):([^\[\]:]*):\s*(0?\.\d+|0\.?|1(?:\.0*)?)\s*\]")
WEIGHT = re.compile(r"\(([^()]*):\s*(\d*\.?\d+)\s*\)|\[([^\[\]:]+)\]")
COMPOSED = re.compile(r"(.*?)(?::\s*(-?\d*\.?\d+))?\s*\Z", re.DOTALL)
LORA = re.compile(r"<lora:([^<>:{}|]+)(?::\s*(-?\d*\.?\d+))?\s*>")
EMBEDDING = re.compile(r"(?<!\w)embedding:([^\s,()\[\]|:]+)")
NAMED = {"lora": "<lora:{}:1>", "embedding": "embedding:{}"}  # how a prompt names a file, by its family
SIGNS = 0xF0000  # the first of the characters that Unicode leaves to everybody's own use
LESS = 1 / 1.1  # what square brackets make of words


def loras(text):
    """`(text, weights)`: a text without its LoRAs, and the weight of each by its name; named twice, weights add up.

    Raises `BadRequest` for one that is not written as above.
    """
    weights = {}
    for name, weight in LORA.findall(text):
        weights[name.strip()] = weights.get(name.strip(), 0.0) + float(weight or 1)
    text = LORA.sub("", text)
    if "<lora:" in text:
        raise BadRequest(
            "A LoRA in the prompt is written otherwise: <lora:name:0.8> with its name and a number, or <lora:name>."
        )
    return text, weights


def signed(text, names):
    """`(text, signs)`: a text with a sign, one character, in the place of each embedding; the name of each by its sign.

    A name has always the same sign among the same `names`. An embedding that is not among them stays as it is written.
    """
    signs = {}
    for name in sorted(names, key=len, reverse=True):  # a name may go on as another
        sign = chr(SIGNS + names.index(name))
        text, count = re.subn(rf"(?<!\w)embedding:{re.escape(name)}(?!\w)", sign, text)
        signs |= {sign: name} if count else {}
    return text, signs


def stages(text):
    """`(share, text)` for each share of the steps, from 0 on, from which a scheduled `text` is another one."""
    shares = sorted({0.0} | {float(found[3]) for found in SCHEDULE.finditer(text)} - {1.0})
    return [(share, SCHEDULE.sub(lambda found, share=share: found[1 + (share >= float(found[3]))], text))
            for share in shares]  # fmt: skip


def composed(text):
    """`(text, weight)` of each prompt that is joined to others by AND; of a single one the weight is 1."""
    parts = re.split(r"\s+AND\s+", text)
    if len(parts) == 1:
        return [(text, 1.0)]
    found = [COMPOSED.match(part) for part in parts]
    return [(match[1].strip(), float(match[2] or 1)) for match in found]


def weighted(text):
    """`(words, weight)` of each piece of a text; together the pieces are the text without its marks."""
    pieces, end = [], 0
    for found in WEIGHT.finditer(text):
        pieces += [(text[end : found.start()], 1.0)]
        pieces += [(found[1], float(found[2]))] if found[2] else [(found[3], LESS)]
        end = found.end()
    pieces.append((text[end:], 1.0))
    return [(words, weight) for words, weight in pieces if words]


def styled(text, style):
    """The pieces of a text with its style, as `captions.compose` puts it."""
    pieces = weighted(text)
    words = "".join(words for words, _ in pieces)
    return [*pieces, (compose(words, style).removeprefix(words), 1.0)]


def readings(text, style=""):
    """Each text, as pieces, that a prompt with its style is read as at some time."""
    return [styled(part, style) for _, stage in stages(text) for part, _ in composed(stage)]
