"""Atelier's one command: sets itself up, then runs the studio, the tests, or a command of the command line.

    python app.py             the studio
    python app.py test        every test; what follows goes to pytest
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
STUDIO = HERE / "requirements.txt"
TESTS = HERE / "tests" / "requirements.txt"
OLDEST = (3, 11)
# The studio shares its cores with a browser. Threads that spin while they wait for one that has lost its core keep
# it from coming back: a picture takes up to ten times as long.
SHARING = {"OMP_WAIT_POLICY": "PASSIVE"}
TESTING = SHARING | {"OMP_NUM_THREADS": "1"}  # nets of tests are too small for two cores


def main(argv):
    """Set up if needed, then run the command inside `.venv`; returns the exit code."""
    if sys.version_info < OLDEST:
        say(f"Atelier needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}.")
        return 1
    testing = argv[:1] == ["test"]
    for name, value in (TESTING if testing else SHARING).items():  # before anything reads it
        os.environ.setdefault(name, value)
    wanted = [STUDIO, TESTS] if testing else [STUDIO]
    if not installed(wanted, VENV) and not set_up(wanted, VENV):
        return 1
    if testing:
        os.chdir(HERE)
        return become([python_of(VENV), "-m", "pytest", *argv[1:]])
    if not os.path.samefile(sys.prefix, VENV):
        return become([python_of(VENV), HERE / "app.py", *argv])
    from studio import cli

    return cli.main(argv)


def say(text):
    print(f"atelier: {text}", file=sys.stderr, flush=True)


def python_of(venv):
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_of(venv):
    """The file with the hashes of the requirements files that `venv` fulfils; empty while it is being filled."""
    return venv / "installed"


def installed(requirements, venv):
    """Whether `venv` fulfils the files of `requirements` in their present wording."""
    stamp = stamp_of(venv)
    return python_of(venv).exists() and stamp.exists() and hashes(requirements) <= set(stamp.read_text().split())


def hashes(requirements):
    """The SHA-256 of each file, as a set."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in requirements}


def set_up(requirements, venv, run=subprocess.run):
    """Fill `venv` with all that the files of `requirements` name, making it first if needed; True if that worked."""
    stamp = stamp_of(venv)
    try:
        if not usable(venv, run):
            say("Setting up, once: this takes some minutes.")
            say(f"Making {venv} …")
            if run([sys.executable, "-m", "venv", "--clear", str(venv)], stdout=sys.stderr).returncode:
                say("Python could not make it, for the reason above; mend that and run the same command again.")
                return False
        say(f"Installing {' and '.join(str(path.relative_to(HERE)) for path in requirements)} …")
        files = [word for path in requirements for word in ("-r", str(path))]
        stamp.write_text("")
        if run([str(python_of(venv)), "-m", "pip", "install", *files], stdout=sys.stderr).returncode:
            stamp.unlink()  # pip takes back what it could not finish, so the environment is whole
            say("pip could not install them, for the reason above; mend that and run the same command again.")
            return False
        stamp.write_text("\n".join(hashes(requirements)))
    except KeyboardInterrupt:
        say("Stopped; the same command begins the set-up again.")
        return False
    say("Ready.")
    return True


def usable(venv, run=subprocess.run):
    """Whether pip can go on in `venv`: it runs there, and no filling of it was cut short."""
    stamp = stamp_of(venv)
    if stamp.exists() and not stamp.read_text():
        return False
    try:
        return not run([str(python_of(venv)), "-m", "pip", "--version"], capture_output=True).returncode
    except OSError:
        return False


def become(command):
    """Run `command` in place of this process; where there is no such thing, on Windows, wait for its exit code."""
    command = [str(word) for word in command]
    if os.name == "nt":
        return subprocess.run(command).returncode
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
