"""Wildcards: `__animal__` in a prompt is one line of `wildcards/animal.txt` in the home, chosen by the seed."""

import re
from pathlib import Path

from engines.errors import BadRequest

FOLDER = "wildcards"
NAME = re.compile(r"__([\w-]+?)__")
DEEPEST = 4  # lists within lists


def fill(text, home):
    """`text` with each wildcard as a choice `{cat|dog}` of its lines.

    Raises `BadRequest` for a list that is not there, or is empty, or leads too deep.
    """
    for _ in range(DEEPEST + 1):
        if not NAME.search(text):
            return text
        text = NAME.sub(lambda found: _choice(found[1], Path(home)), text)
    raise BadRequest(f"The wildcards of this prompt lead to more than {DEEPEST} lists within lists; name fewer.")


def _choice(name, home):
    path = home / FOLDER / f"{name}.txt"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        known = sorted(path.stem for path in (home / FOLDER).glob("*.txt"))
        there = f"there are {', '.join(known)}" if known else f"put lists, a line each, into {FOLDER}/ of the home"
        raise BadRequest(f"There is no list “{name}”; {there}.") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise BadRequest(f"The list “{name}” is empty; write a line into it.")
    return "{" + "|".join(lines) + "}" if len(lines) > 1 else lines[0]
