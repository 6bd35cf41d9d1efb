"""Who may come in from outside: names with hashed passwords in a file of the home, and few tries."""

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections import defaultdict, deque
from pathlib import Path

from engines.errors import BadRequest
from studio import images

FILE = "logins.json"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
SHORTEST = 8  # characters of a password
TRIES, MINUTE = 10, 60.0  # of one name, and seconds
COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: 16 MiB, some 50 ms


class Logins:
    """The login file of a home. Raises `BadRequest` if it cannot be read."""

    def __init__(self, home):
        self.path = Path(home) / FILE
        self._lock = threading.Lock()
        self._tried = defaultdict(deque)  # when each name was tried last
        try:
            self._hashes = json.loads(self.path.read_text()) if self.path.exists() else {}
        except (OSError, ValueError) as error:
            raise BadRequest(f"{self.path} cannot be read; remove it and add the logins again.") from error

    def __len__(self):
        return len(self._hashes)

    def add(self, name, password):
        """Let `name` in by `password` from now on; an older password of it is forgotten."""
        if not NAME.fullmatch(name):
            raise BadRequest(
                f"“{name}” cannot be a name; use up to 32 small letters, digits, - and _, a letter or digit first."
            )
        if len(password) < SHORTEST:
            raise BadRequest(f"The password has {len(password)} characters; it needs at least {SHORTEST}.")
        salt = secrets.token_bytes(16)
        self._hashes[name] = {"salt": salt.hex(), "hash": _hash(password, salt)}
        images.write_bytes(self.path, json.dumps(self._hashes, indent=1).encode())
        self.path.chmod(0o600)

    def check(self, name, password):
        """Whether `name` may come in by `password`; after ten tries within a minute nobody may by that name."""
        with self._lock:
            tried, now = self._tried[name[:64]], time.monotonic()
            while tried and tried[0] < now - MINUTE:
                tried.popleft()
            if len(tried) >= TRIES:
                return False
            tried.append(now)
        known = self._hashes.get(name, {"salt": "", "hash": ""})  # a name that is not there takes as long
        right = hmac.compare_digest(_hash(password, bytes.fromhex(known["salt"])), known["hash"])
        if right:
            with self._lock:
                tried.clear()
        return right


def _hash(password, salt):
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, **COST).hex()
