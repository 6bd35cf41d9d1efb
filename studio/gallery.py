"""Pictures and their provenance: PNG files that hold their own record, and a table of them."""

import datetime
import functools
import hashlib
import json
import logging
import re
import secrets
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engines import requests
from engines.errors import BadPicture
from studio import images, parameters
from studio.database import spaced

THUMBNAIL = 256  # pixels of the longer side
DAY = 24 * 3600
OF_USER = "@"  # begins the name of a folder that is one user's
PICTURES = ("generate", "inpaint", "adjust", "upscale", "refine", "reconstruct")  # the tasks that pictures come from
MADE = ("model_sha256", "upscaler_sha256", "vae_sha256", "device", "precision")  # what a record says beside its request
KEPT = DAY  # seconds in which a deletion can be undone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery."""

    id: str
    job: str
    path: Path
    task: str
    seed: int | None
    prompt: str
    created: float  # seconds since 1970
    user: str = ""
    model: str = ""
    board: str = ""  # what the artist has put it under
    starred: bool = False

    @functools.cached_property
    def record(self):
        """How it was made, as its file tells."""
        return images.read_record(self.path)

    @property
    def made_from(self):
        """How the pictures before this one were made, the first one first; what is no such thing is left out."""
        rows = self.record.get("made_from")
        return [row for row in (rows if isinstance(rows, list) else []) if _is_step(row)]


@dataclass(frozen=True)
class Search:
    """Which pictures are looked for; what is left empty does not matter."""

    words: str = ""  # all of them, whole or begun, in any order
    task: str = ""
    model: str = ""
    board: str = ""
    starred: bool = False
    since: float | None = None  # seconds since 1970
    until: float | None = None


def request_of(record):
    """The request that makes a recorded picture again. Raises `BadRequest` if this version cannot."""
    return requests.from_json(json.dumps(record["request"]))


def compared(one, other):
    """All that two records say of how their pictures were made: a list of `(name, value, other value)`."""
    flat = [_flat(record) for record in (one, other)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return [(name, flat[0].get(name, ""), flat[1].get(name, "")) for name in names]


def _flat(record):
    request = _brief(record["request"])
    made = {name: record.get(name, "") for name in MADE}
    additions = record.get("additions")  # what the prompt named, in a file that may be a stranger's
    rows = additions.items() if isinstance(additions, dict) else ()
    added = {f"{name} sha256": told.get("sha256", "") for name, told in rows if isinstance(told, dict)}
    return request | made | added | record.get("versions", {})


def _is_step(row):
    request = row.get("request") if isinstance(row, dict) else None
    return isinstance(request, dict) and request.get("task") in PICTURES


def _brief(request):
    # pictures are told apart by their hash
    hashed = {
        name: hashlib.sha256(request[name].encode()).hexdigest()[:12]
        for name in ("image", "mask", "tokens") if request.get(name)
    }  # fmt: skip
    return request | hashed


class Gallery:
    """The pictures under `home/gallery`; a picture is a file first and a row after, so that none is lost.

    When a gallery is opened, files without a row get one from the record inside them, rows without a file
    go, and what was deleted a day ago goes for good. Users see and change pictures of their own alone.
    """

    def __init__(self, home, database):
        self.folder, self.thumbnails = Path(home) / "gallery", Path(home) / "thumbnails"
        self._database = database
        self._recover()

    # ------------------------------------------------------------ in

    def add(self, image, record, seed=None, job="", user=""):
        """Keep a picture; returns its `Entry` once file and row are safe. Raises `OSError` if the disk refuses.

        If it was made from a picture that is here, its record tells under `made_from` how that was made, and so
        on back to the first: a list, the first one first.
        """
        number = secrets.token_hex(8)
        folder = self.folder / f"{OF_USER}{user}" if user else self.folder
        path = folder / datetime.date.today().isoformat() / f"{number}.png"
        record = record | {"seed": seed, "job": job}
        before = self._made_from(record["request"], user)
        if before:
            record["made_from"] = before
        images.write_png(path, image, record)
        return self._insert(number, path, record, seed, job, time.time(), user, images.content(image))

    def take_in(self, source, user=""):
        """Keep the picture of a PNG file with the settings that it holds, ours or another studio's.

        Returns its `Entry` and the names of settings that have no place here. Raises `BadPicture` for what is
        no picture or holds no settings.
        """
        image, lost = images.read_picture(source), []
        try:
            record = images.whole_record(source)
            if record["request"].get("task") not in PICTURES:
                raise BadPicture("The settings in this picture are of no task that makes pictures.")
        except BadPicture:
            request, lost = parameters.read(images.read_texts(source))
            record = {"request": json.loads(requests.to_json(request)), "imported": True, "seed": request.seed}
        return self.add(image, record, record.get("seed"), user=user), lost

    # ------------------------------------------------------------ out

    def get(self, number, user=""):
        """The `Entry` of that id, or None."""
        rows = self._select("WHERE id = ? AND user = ? AND deleted IS NULL", (number, user))
        return rows[0] if rows else None

    def of_job(self, job):
        """The entries of one job, in the order they were made."""
        return tuple(self._select("WHERE job = ? AND deleted IS NULL ORDER BY created, rowid", (job,)))

    def recent(self, limit, offset=0, task="generate", user=""):
        """Up to `limit` entries of a task, newest first, after the newest `offset`."""
        return self.find(Search(task=task), limit, offset, user)

    def find(self, search, limit, offset=0, user=""):
        """Up to `limit` entries that a `Search` finds, newest first, after the newest `offset`."""
        where, values = _where(search, user)
        rest = f"WHERE {where} ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?"
        return self._select(rest, (*values, limit, offset))

    def count(self, search, user=""):
        """How many pictures a `Search` finds."""
        where, values = _where(search, user)
        with self._database() as connection:
            return connection.execute(f"SELECT COUNT(*) FROM pictures WHERE {where}", values).fetchone()[0]

    def names(self, column, user=""):
        """What there is in a column, `model` or `board`, in order; the empty name is left out."""
        with self._database() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT {column} AS name FROM pictures "
                f"WHERE user = ? AND deleted IS NULL AND {column} != '' ORDER BY {column}",
                (user,),
            ).fetchall()
        return [row["name"] for row in rows]

    def thumbnail(self, entry):
        """The path of a small WebP of an entry's picture; it is made once."""
        path = self.thumbnails / f"{entry.id}.webp"
        if not path.exists():
            with Image.open(entry.path, formats=("PNG",)) as image:
                image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
                images.write_bytes(path, images.encoded(image, "WEBP", quality=85))
        return path

    def zipped(self, numbers, stream, user=""):
        """Write the pictures of those ids, as they are, into a binary stream as a ZIP file."""
        with zipfile.ZipFile(stream, "w") as archive:  # PNG is compressed already
            for number in numbers:
                entry = self.get(number, user)
                if entry:
                    archive.write(entry.path, f"{entry.id}.png")

    # ------------------------------------------------------------ what is changed

    def star(self, numbers, starred=True, user=""):
        """Give pictures a star, or take it."""
        self._update("starred = ?", (int(starred),), numbers, user)

    def put(self, numbers, board, user=""):
        """Put pictures under a board; the empty name takes them from theirs."""
        self._update("board = ?", (board.strip(),), numbers, user)

    def delete(self, numbers, user=""):
        """Take pictures out of the gallery; for a day they can be brought back."""
        self._update("deleted = ?", (time.time(),), numbers, user)

    def restore(self, numbers, user=""):
        """Bring deleted pictures back."""
        self._update("deleted = NULL", (), numbers, user)

    def _update(self, what, values, numbers, user):
        with self._database() as connection:
            connection.executemany(
                f"UPDATE pictures SET {what} WHERE id = ? AND user = ?",
                [(*values, number, user) for number in numbers],
            )

    # ------------------------------------------------------------ rows

    def _select(self, rest, values):
        with self._database() as connection:
            rows = connection.execute(
                f"SELECT id, job, path, task, seed, prompt, created, user, model, board, starred FROM pictures {rest}",
                values,
            ).fetchall()
        return [
            Entry(**dict(row) | {"path": self.folder / row["path"], "starred": bool(row["starred"])}) for row in rows
        ]

    def _made_from(self, request, user):
        # the records of the pictures before this one, without the pictures inside them
        if not request.get("image"):
            return []
        content = images.content(images.picture_in(request["image"]))
        found = self._select(
            "WHERE user = ? AND content = ? AND deleted IS NULL ORDER BY created DESC LIMIT 1", (user, content)
        )
        return [
            *(earlier for entry in found for earlier in entry.made_from),
            *({"id": entry.id, "request": _brief(entry.record["request"]),
               "model_sha256": entry.record.get("model_sha256", "")} for entry in found),
        ]  # fmt: skip

    def _insert(self, number, path, record, seed, job, created, user="", content=""):
        request = record["request"]
        prompt, model = request.get("prompt", ""), request.get("model", "")
        entry = Entry(number, job, path, request["task"], seed, prompt, created, user, model)
        with self._database() as connection:
            connection.execute(
                "INSERT INTO pictures (id, job, path, task, seed, prompt, created, user, model, record, content) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, job, path.relative_to(self.folder).as_posix(), entry.task, seed, prompt, created, user, model,
                 json.dumps(record | {"request": _brief(request)}, ensure_ascii=False), content),
            )  # fmt: skip
            connection.execute("INSERT INTO words (id, text) VALUES (?, spaced(?))", (number, prompt))
        return entry

    def _recover(self):
        for part in self.folder.rglob("*.part"):
            part.unlink()
        self._purge()
        files = {path.stem: path for path in self.folder.rglob("*.png")}
        with self._database() as connection:
            rows = connection.execute("SELECT id, path FROM pictures").fetchall()
        known = {row["id"] for row in rows if files.get(row["id"]) == self.folder / row["path"]}
        self._forget([row["id"] for row in rows if row["id"] not in known])
        for number in files.keys() - known:
            path = files[number]
            try:
                record = images.read_record(path)
                first = path.relative_to(self.folder).parts[0]
                user = first.removeprefix(OF_USER) if first.startswith(OF_USER) else ""
                made = path.stat().st_mtime
                with Image.open(path, formats=("PNG",)) as image:
                    content = images.content(image)
                self._insert(number, path, record, record.get("seed"), record.get("job", ""), made, user, content)
            except Exception as error:  # not one of ours, or damaged: whatever it is, the others must be found
                log.warning("%s is left where it lies: %r", path, error)

    def _purge(self):
        # what was deleted long enough ago: the file first, so that a kill between leaves a row without one
        gone = self._select("WHERE deleted < ?", (time.time() - KEPT,))
        for entry in gone:
            entry.path.unlink(missing_ok=True)
            (self.thumbnails / f"{entry.id}.webp").unlink(missing_ok=True)
        self._forget([entry.id for entry in gone])

    def _forget(self, numbers):
        with self._database() as connection:
            for table in ("pictures", "words"):
                connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(number,) for number in numbers])


def _where(search, user):
    # a search as the condition of a query, and its values
    conditions = {
        "user = ?": user,
        "id IN (SELECT id FROM words WHERE words MATCH ?)": _match(search.words),
        "task = ?": search.task,
        "model = ?": search.model,
        "board = ?": search.board,
        "starred = ?": int(search.starred),
        "created >= ?": search.since,
        "created < ?": search.until,
    }
    asked = {condition: value for condition, value in conditions.items() if value or condition == "user = ?"}
    return " AND ".join([*asked, "deleted IS NULL"]), tuple(asked.values())


def _match(words):
    # each word as a phrase of FTS5 that may go on: quoted, nothing in it is an operator
    phrases = [" ".join(re.findall(r"\w+", spaced(word))) for word in words.split()]
    return " ".join(f'"{phrase}"*' for phrase in phrases if phrase)
