"""Pictures and their provenance: PNG files that hold their own record, and a table of them."""

import datetime
import json
import logging
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from engines import requests
from engines.errors import BadPicture
from studio import images

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
    record: dict


def request_of(record):
    """The request that makes a recorded picture again. Raises `BadRequest` if this version cannot."""
    return requests.from_json(json.dumps(record["request"]))


class Gallery:
    """The pictures under `home/gallery`; a picture is a file first and a row after, so that none is lost.

    When a gallery is opened, files without a row get one from the record inside them, and rows without
    a file go.
    """

    def __init__(self, home, database):
        self.folder = Path(home) / "gallery"
        self._database = database
        self._recover()

    def add(self, image, record, seed=None, job=""):
        """Keep a picture; returns its `Entry` once file and row are safe. Raises `OSError` if the disk refuses."""
        number = secrets.token_hex(8)
        path = self.folder / datetime.date.today().isoformat() / f"{number}.png"
        record = record | {"seed": seed, "job": job}
        images.write_png(path, image, record)
        return self._insert(number, path, record, seed, job, time.time())

    def get(self, number):
        """The `Entry` of that id, or None."""
        rows = self._select("WHERE id = ?", (number,))
        return rows[0] if rows else None

    def of_job(self, job):
        """The entries of one job, in the order they were made."""
        return tuple(self._select("WHERE job = ? ORDER BY created, rowid", (job,)))

    def recent(self, limit, offset=0, task="generate"):
        """Up to `limit` entries of a task, newest first, after the newest `offset`."""
        return self._select("WHERE task = ? ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?", (task, limit, offset))

    def _select(self, rest, values):
        with self._database() as connection:
            rows = connection.execute(f"SELECT * FROM pictures {rest}", values).fetchall()
        return [
            Entry(**dict(row) | {"path": self.folder / row["path"], "record": json.loads(row["record"])})
            for row in rows
        ]

    def _insert(self, number, path, record, seed, job, created):
        request = record["request"]
        entry = Entry(number, job, path, request["task"], seed, request.get("prompt", ""), created, record)
        with self._database() as connection:
            connection.execute(
                "INSERT INTO pictures (id, job, path, task, seed, prompt, created, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, job, path.relative_to(self.folder).as_posix(), entry.task, seed, entry.prompt, created,
                 json.dumps(record, ensure_ascii=False)),
            )  # fmt: skip
        return entry

    def _recover(self):
        for part in self.folder.rglob("*.part"):
            part.unlink()
        files = {path.stem: path for path in self.folder.rglob("*.png")}
        with self._database() as connection:
            rows = connection.execute("SELECT id, path FROM pictures").fetchall()
            known = {row["id"] for row in rows if files.get(row["id"]) == self.folder / row["path"]}
            gone = [(row["id"],) for row in rows if row["id"] not in known]
            connection.executemany("DELETE FROM pictures WHERE id = ?", gone)
        for number in files.keys() - known:
            path = files[number]
            try:
                record = images.read_record(path)
                self._insert(number, path, record, record.get("seed"), record.get("job", ""), path.stat().st_mtime)
            except (BadPicture, KeyError, ValueError, OverflowError, sqlite3.Error) as error:
                log.warning("%s is left where it lies: %r", path, error)  # not one of ours, or damaged
