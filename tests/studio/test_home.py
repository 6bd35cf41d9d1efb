import subprocess
import sys
from pathlib import Path

import pytest

from engines.errors import BadRequest
from studio.home import FOLDERS, open_home

ROOT = Path(__file__).parent.parent.parent


def test_a_home_has_its_folders_and_a_second_studio_is_refused(tmp_path):
    home = open_home(tmp_path / "home")
    assert all((home / folder).is_dir() for folder in FOLDERS)
    code = (
        "import sys; from studio.home import open_home; from engines.errors import BadRequest\n"
        "try: open_home(sys.argv[1])\n"
        "except BadRequest as error: print(error)"
    )
    second = subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, capture_output=True, text=True)
    assert second.stdout.startswith("Another studio runs on") and "--home" in second.stdout


def test_a_home_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot be written.*--home"):
        open_home(tmp_path / "file")
