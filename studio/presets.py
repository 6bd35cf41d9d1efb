"""Settings of the form that an artist has saved under a name."""

import json

from engines.errors import BadRequest

LONGEST = 60  # characters of a name


class Presets:
    """The presets of each user, kept in the studio's database."""

    def __init__(self, database):
        self._database = database

    def names(self, user=""):
        """The names of all presets, in order."""
        with self._database() as connection:
            rows = connection.execute("SELECT name FROM presets WHERE user = ? ORDER BY name", (user,)).fetchall()
        return [row["name"] for row in rows]

    def save(self, name, settings, user=""):
        """Keep `settings`, a dict for JSON, under `name`; what was kept there before is replaced."""
        name = name.strip()
        if not 0 < len(name) <= LONGEST:
            raise BadRequest(f"A preset needs a name of 1 to {LONGEST} characters; write one.")
        with self._database() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO presets (user, name, settings) VALUES (?, ?, ?)",
                (user, name, json.dumps(settings, ensure_ascii=False)),
            )

    def load(self, name, user=""):
        """The settings under `name`. Raises `BadRequest` if there are none."""
        with self._database() as connection:
            row = connection.execute(
                "SELECT settings FROM presets WHERE user = ? AND name = ?", (user, name.strip())
            ).fetchone()
        if row is None:
            raise BadRequest(f"There is no preset “{name}”; choose one of the list, or save one.")
        return json.loads(row["settings"])

    def forget(self, name, user=""):
        """Remove what is under `name`."""
        with self._database() as connection:
            connection.execute("DELETE FROM presets WHERE user = ? AND name = ?", (user, name.strip()))
