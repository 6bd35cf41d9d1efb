"""Comparisons: what artists write of axes becomes points, and finished cells become a sheet and a folder."""

import dataclasses
import json
import math
import re
import zipfile
from decimal import Decimal, InvalidOperation

from PIL import Image, ImageDraw, ImageFont

from engines import requests
from engines.errors import BadRequest
from engines.requests import SETTINGS, Drawn, GenerateRequest, MeasureRequest, refitted
from studio import images

DIGITS = 11  # before the point; no field has more
WORDS = "words"  # the axis that replaces words of the prompt
LEFT_OUT = ("count",)  # a cell is one picture
RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*\(\+?\s*([\d.]+)\))?")
FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "msyh.ttc", "PingFang.ttc", "DejaVuSans.ttf")
MEASURES = ("largest", "mean", "psnr", "ssim", "distance")  # of two pictures, fields of a `MeasureResult`
SHEET, TABLE = "comparison.png", "comparison.json"  # of the folder of a comparison
CELL = 1024  # pixels of the longer side of a picture on a sheet
LABEL, GAP, LINE = 16, 6, 24  # pixels: of letters, between cells, of a line of labels


def fields():
    """The names of what a comparison can vary along an axis, words of the prompt first."""
    varied = [
        item.name
        for item in dataclasses.fields(GenerateRequest)
        if {"low", "choices"} & set(item.metadata) and item.name not in LEFT_OUT
    ]
    return [WORDS, *varied]


def points(request, name, text):
    """The axis that the words `text` describe of the field `name`, as `CompareRequest` takes it.

    Values are separated by commas; of numbers, `1-5` are 1 to 5 and `10-30 (+10)` is 10, 20, 30. Of the words
    of a prompt, the first is what stands there and the others take its place. Raises `BadRequest` for what
    is no value of that field.
    """
    parts = [part.strip() for part in re.split(r"[,，\n]", text) if part.strip()]
    if not parts:
        raise BadRequest(f"The axis {name} has no values; write some, separated by commas.")
    if name == WORDS:
        if parts[0] not in request.prompt:
            raise BadRequest(f"“{parts[0]}” is not in the prompt; begin the axis with words that are.")
        return tuple({"prompt": request.prompt.replace(parts[0], part)} for part in parts)
    if "choices" in requests.control(GenerateRequest, name):
        return tuple({name: part} for part in parts)
    whole = next(item.type is int for item in dataclasses.fields(GenerateRequest) if item.name == name)
    return tuple({name: int(value) if whole and value == int(value) else float(value)}
                 for part in parts for value in _numbers(name, part))  # fmt: skip


def _numbers(name, part):
    found = RANGE.fullmatch(part)
    try:
        first, last, step = (Decimal(found[1]), Decimal(found[2]), Decimal(found[3] or 1)) if found else (
            Decimal(part), Decimal(part), Decimal(1)
        )  # fmt: skip
    except InvalidOperation:
        first = last = Decimal("nan")
    if not all(value.is_finite() and value.adjusted() < DIGITS for value in (first, last)):
        raise BadRequest(f"“{part}” is no number for {name}; write such as 1, 2, 3 or 1-5 or 10-30 (+10).")
    if not step or not first <= last or (last - first) / step >= requests.MAX_CELLS:
        raise BadRequest(f"“{part}” is no range for {name} of at most {requests.MAX_CELLS} values.")
    return [first + step * i for i in range(int((last - first) / step) + 1)]


def of_models(request, rows):
    """The axis of several models, rows of the catalog.

    Each takes the settings that suit its family in the place of those that suit another, and those that the request
    does not name their own autoencoder.
    """
    if not isinstance(request, Drawn):
        return tuple({"model": row.id} for row in rows)
    given = {name: getattr(request, name) for name in (*SETTINGS, "prompt", "style")}
    return tuple(
        {"model": row.id}
        | {name: value for name, value in refitted(row.family, given).items() if name in SETTINGS}
        | ({"vae": ""} if request.vae and row.id != request.model else {})
        for row in rows
    )


def label(point, name_of=str):
    """What a point of an axis is called, its field as `name_of` calls it; of one that changes nothing, empty."""
    if not point:
        return ""
    name, value = next(iter(point.items()))
    return str(value) if name in ("model", "prompt") else f"{name_of(name)} {value}"


def by_place(request, entries):
    """The finished pictures of a comparison by the places of their cells; `entries` are those of its job."""
    order = request.order()
    return {order[entry.record["piece"]]: entry for entry in entries}


def labels(request, name_of=str):
    """What the points of each of a comparison's three axes are called."""
    return tuple([label(point, name_of) for point in axis] for axis in request.axes)


def called(request, place, name_of=str):
    """What a cell is called: by its points along all axes."""
    return ", ".join(filter(None, _labels(request, place, name_of)))


def _labels(request, place, name_of=str):
    return [names[index] for names, index in zip(labels(request, name_of), place, strict=True)]


# ---------------------------------------------------------------- how far the pictures are from each other


def measured(run, one, other):
    """The `MeasureResult` of two PIL pictures by `run(request)`; None for those of two sizes, or too small for it."""
    try:
        return run(MeasureRequest(images.png_bytes(one), images.png_bytes(other)))
    except BadRequest:
        return None


def firsts(request):
    """Of each cell of another model than the first, its place, and that of the first model's which else is the same."""
    axis = next((number for number, points in enumerate(request.axes) if "model" in points[0]), None)
    if axis is None:
        return {}
    return {place: (*place[:axis], 0, *place[axis + 1 :]) for place in request.cells() if place[axis]}


def apart(request, pictures, measure):
    """How far what other models made is from what the first made of the same: `MeasureResult` by place.

    `pictures` are by place, and `measure(one, other)` tells of two of them as `measured` does; where it tells nothing
    or one is missing, so is the place.
    """
    found = {
        place: measure(pictures[first], pictures[place])
        for place, first in firsts(request).items() if place in pictures and first in pictures
    }  # fmt: skip
    return {place: result for place, result in found.items() if result}


def facts(result):
    """What JSON tells of a `MeasureResult`; the PSNR of identical pictures is no number there."""
    told = {"identical": result.largest == 0} | {name: getattr(result, name) for name in MEASURES}
    return told | {"psnr": result.psnr if math.isfinite(result.psnr) else None}


# ---------------------------------------------------------------- what is kept of them


def sheet(request, pictures, name_of=str):
    """A comparison as one labelled picture; `pictures` are PIL pictures by place, and what is missing stays empty.

    Fields are called as `name_of` calls them. Larger pictures are reduced: a sheet is to be looked at, and the folder
    has them whole.
    """
    pictures = {place: _reduced(picture) for place, picture in pictures.items()}
    across, down, pages = labels(request, name_of)
    width = max(picture.width for picture in pictures.values()) + GAP
    height = max(picture.height for picture in pictures.values()) + GAP
    font = _font()
    left = max(int(font.getlength(text)) for text in down) + GAP if any(down) else 0
    top = LINE * (any(pages) + any(across))
    made = Image.new("RGB", (left + width * len(across), (top + height * len(down)) * len(pages)), "white")
    pen = ImageDraw.Draw(made)
    for page, title in enumerate(pages):
        head = page * (top + height * len(down))
        pen.text((0, head), title, "black", font)
        for column, text in enumerate(across):
            pen.text((left + column * width, head + top - LINE), text, "black", font)
        for row, text in enumerate(down):
            pen.text((0, head + top + row * height), text, "black", font)
            for column in range(len(across)):
                picture = pictures.get((column, row, page))
                if picture:
                    made.paste(picture, (left + column * width, head + top + row * height))
    return made


def _reduced(picture):
    picture = picture.copy()
    picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return picture


def write_folder(request, entries, distances, stream):
    """Write a comparison as a ZIP file: its pictures by page, row and column, and what they are as JSON.

    `distances` are as `apart` tells.
    """
    places = by_place(request, entries)
    with zipfile.ZipFile(stream, "w") as archive:  # PNG is compressed already
        for place, entry in places.items():
            archive.write(entry.path, file_of(place))
        records = {place: images.whole_record(entry.path) for place, entry in places.items()}
        archive.writestr(TABLE, table(request, records, distances))


def table(request, records, distances):
    """What lies where in the folder of a comparison, as JSON; `records` are those of its cells by place.

    `distances` are as `apart` tells; each is from the file that it names.
    """
    first = firsts(request)
    cells = [
        {"file": file_of(place), "place": place, "labels": _labels(request, place), "record": record}
        | ({"apart": {"from": file_of(first[place])} | facts(distances[place])} if place in distances else {})
        for place, record in sorted(records.items())
    ]
    return json.dumps({"cells": cells}, ensure_ascii=False, indent=1)


def file_of(place):
    """The name of the picture of a cell in the folder of its comparison."""
    return "page {2}, row {1}, column {0}.png".format(*(index + 1 for index in place))


def _font():
    # the first that is installed of those that know Chinese, or at last Latin letters alone
    for name in FONTS:
        try:
            return ImageFont.truetype(name, LABEL)
        except OSError:
            continue
    return ImageFont.load_default(LABEL)
