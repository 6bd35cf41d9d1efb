"""The studio's SQLite file: one connection a thread, and a transaction is a `with` block."""

import sqlite3
import threading

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL,
    error TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS pictures (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, path TEXT NOT NULL, task TEXT NOT NULL, seed INTEGER,
    prompt TEXT NOT NULL, created REAL NOT NULL, record TEXT NOT NULL
);
"""


class Database:
    """`with database() as connection:` commits at the end of the block, or rolls back."""

    def __init__(self, path):
        self.path = path
        self._local = threading.local()
        with self() as connection:
            connection.executescript(SCHEMA)

    def __call__(self):
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=30)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            self._local.connection = connection
        return self._local.connection
