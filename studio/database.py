"""The studio's SQLite file: one connection a thread, and a transaction is a `with` block."""

import re
import sqlite3
import threading

from engines.errors import BadRequest

MIGRATIONS = (  # what each version of the file adds to the one before; never changed, only added to
    """
    CREATE TABLE IF NOT EXISTS jobs (
        id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL,
        error TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE IF NOT EXISTS pictures (
        id TEXT PRIMARY KEY, job TEXT NOT NULL, path TEXT NOT NULL, task TEXT NOT NULL, seed INTEGER,
        prompt TEXT NOT NULL, created REAL NOT NULL, record TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE jobs ADD COLUMN user TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET place = rowid;
    CREATE INDEX jobs_by_user ON jobs (user, state, created);
    CREATE INDEX pictures_by_job ON pictures (job);
    """,
    """
    ALTER TABLE pictures ADD COLUMN user TEXT NOT NULL DEFAULT '';
    ALTER TABLE pictures ADD COLUMN model TEXT NOT NULL DEFAULT '';
    ALTER TABLE pictures ADD COLUMN board TEXT NOT NULL DEFAULT '';
    ALTER TABLE pictures ADD COLUMN starred INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE pictures ADD COLUMN deleted REAL;
    UPDATE pictures SET model = COALESCE(json_extract(record, '$.request.model'), '');
    CREATE INDEX pictures_by_time ON pictures (user, created);
    CREATE VIRTUAL TABLE words USING fts5 (id UNINDEXED, text);
    INSERT INTO words SELECT id, spaced(prompt) FROM pictures;
    """,
    """
    CREATE TABLE votes (
        user TEXT NOT NULL, created REAL NOT NULL, job TEXT NOT NULL, one TEXT NOT NULL, other TEXT NOT NULL,
        share REAL NOT NULL
    );
    CREATE TABLE presets (
        user TEXT NOT NULL, name TEXT NOT NULL, settings TEXT NOT NULL, PRIMARY KEY (user, name)
    );
    """,
    """
    ALTER TABLE pictures ADD COLUMN content TEXT NOT NULL DEFAULT '';
    CREATE INDEX pictures_by_content ON pictures (user, content);
    """,
)
CHINESE = re.compile(r"([\u3400-\u9fff])")


def spaced(text):
    """`text` with each Chinese character a word of its own: SQLite's index knows words by the space between them."""
    return CHINESE.sub(r" \1 ", text)


class Database:
    """`with database() as connection:` commits at the end of the block, or rolls back."""

    def __init__(self, path):
        self.path = path
        self._local = threading.local()
        connection = self()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise BadRequest(
                f"{self.path} was written by a newer Atelier; start that one, or choose another folder with --home."
            )
        for number, step in enumerate(MIGRATIONS[version:], version + 1):
            connection.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")

    def __call__(self):
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=30)
            connection.row_factory = sqlite3.Row
            connection.create_function("spaced", 1, spaced, deterministic=True)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")  # what is committed outlives a loss of power
            self._local.connection = connection
        return self._local.connection
