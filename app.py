"""Atelier's one command: sets itself up, then runs the studio, the tests, or a command of the command line.

    python app.py             the studio
    python app.py test        every test
    python app.py --help      the other commands

Needs nothing but Python 3.11 or newer: the packages go into `.venv` beside this file, once for one
content of the requirements files. All that this file says goes to standard error.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
OLDEST = (3, 11)


def main(argv):
    """Set up if needed, start again inside `.venv`, and there run the command; returns the exit code."""
    if sys.version_info < OLDEST:
        say(f"Atelier needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}.")
        return 2
    testing = argv[:1] == ["test"]
    wanted = [HERE / "requirements.txt"] + ([HERE / "tests" / "requirements.txt"] if testing else [])
    missing = [path for path in wanted if not installed(path, VENV)]
    if missing and not set_up(missing, VENV):
        return 1
    if Path(sys.prefix) != VENV:
        return start_again(argv)
    if testing:
        return subprocess.run([sys.executable, "-m", "pytest", *argv[1:]], cwd=HERE).returncode
    from studio import cli

    return cli.main(argv)


def say(text):
    print(f"atelier: {text}", file=sys.stderr, flush=True)


def python_of(venv):
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp(requirements, venv):
    """The file whose presence says that just this content of `requirements` is installed in `venv`."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    return venv / f"installed-{digest}"


def installed(requirements, venv):
    """Whether `venv` holds all of one requirements file; a set-up that was cut short does not count."""
    return python_of(venv).exists() and stamp(requirements, venv).exists()


def set_up(requirements, venv, run=subprocess.run):
    """Make `venv` and install the files of `requirements` into it; True if all of it worked."""
    say("Setting up, once; this takes some minutes and about 2 GB of disk.")
    steps = [[sys.executable, "-m", "venv", str(venv)]]
    for path in requirements:
        steps.append([str(python_of(venv)), "-m", "pip", "install", "--quiet", "-r", str(path)])
    for number, step in enumerate(steps, start=1):
        say(f"step {number} of {len(steps)}: {' '.join(step[1:])}")
        if run(step, stdout=sys.stderr).returncode:
            say("The set-up did not finish; read the lines above, mend the cause, and run the same command again.")
            return False
    for path in requirements:  # last, so that a set-up cut short is done again
        stamp(path, venv).touch()
    say("Ready.")
    return True


def start_again(argv):
    """Run this file with the same arguments inside `.venv`."""
    command = [str(python_of(VENV)), str(HERE / "app.py"), *argv]
    if os.name == "nt":
        return subprocess.run(command).returncode
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
