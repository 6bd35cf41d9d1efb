"""Who may come in from outside: names with hashed passwords in a file of the home, and few tries."""

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections import deque
from pathlib import Path

from engines.errors import BadRequest

FILE = "logins.json"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
SHORTEST = 8  # characters of a password
TRIES, ALL_TRIES, MINUTE = 10, 100, 60.0  # of one name, of all names, and the seconds that both are counted for
COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: 16 MiB, some 50 ms


class Logins:
    """The login file of a home. Raises `BadRequest` if it cannot be read."""

    def __init__(self, home):
        self.path = Path(home) / FILE
        self._lock = threading.Lock()
        self._tried = deque()  # when which name was tried, within the last minute
        self._hashes()

    def __len__(self):
        return len(self._hashes())

    def add(self, name, password):
        """Let `name` in by `password` from now on; an older password of it is forgotten."""
        if not NAME.fullmatch(name):
            raise BadRequest(
                f"“{name}” cannot be a name; use up to 32 small letters, digits, - and _, a letter or digit first."
            )
        if len(password) < SHORTEST:
            raise BadRequest(f"The password has {len(password)} characters; it needs at least {SHORTEST}.")
        salt = secrets.token_bytes(16)
        hashes = self._hashes() | {name: {"salt": salt.hex(), "hash": _hash(password, salt)}}
        part = self.path.with_name(FILE + ".part")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(hashes, stream, indent=1)
        part.replace(self.path)

    async def enter(self, name, password):
        """`check` for a server that must not wait for it."""
        return await asyncio.to_thread(self.check, name, password)

    def check(self, name, password):
        """Whether `name` may come in by `password`.

        After ten tries within a minute nobody may by that name, and after a hundred nobody at all.
        """
        with self._lock:
            now = time.monotonic()
            while self._tried and self._tried[0][0] < now - MINUTE:
                self._tried.popleft()
            if len(self._tried) >= ALL_TRIES or sum(name == tried for _, tried in self._tried) >= TRIES:
                return False
            self._tried.append((now, name))
        known = self._hashes().get(name, {"salt": "", "hash": ""})  # a name that is not there takes as long
        right = hmac.compare_digest(_hash(password, bytes.fromhex(known["salt"])), known["hash"])
        if right:
            with self._lock:
                self._tried = deque(row for row in self._tried if row[1] != name)
        return right

    def _hashes(self):
        try:
            return json.loads(self.path.read_text()) if self.path.exists() else {}
        except (OSError, ValueError) as error:
            raise BadRequest(f"{self.path} cannot be read; remove it and add the logins again.") from error


def _hash(password, salt):
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, **COST).hex()
