"""The one command: when it sets itself up, how it mends what is half made, and what it starts."""

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import app
from studio import cli

ROOT = Path(__file__).parents[1]


class Runner:
    """Stands for `subprocess.run`: makes what venv and pip would, or returns the code in `codes`, or raises it."""

    def __init__(self):
        self.steps = []
        self.codes = {}
        self.has_pip = False

    def __call__(self, command, stdout=None, capture_output=False):
        step = {"venv": "make", "--version": "look", "install": "install"}[
            next(word for word in command if word in ("venv", "--version", "install"))
        ]
        code = self.codes.get(step, 0)
        if step == "look":
            code = 0 if self.has_pip and app.python_of(app.VENV).exists() else 1
        else:
            assert stdout is sys.stderr  # standard output is for results
            self.steps.append((step, [Path(word).name for word in command if word.endswith(".txt")]))
        if isinstance(code, BaseException):
            raise code
        if step == "make" and not code:
            assert "--clear" in command
            app.python_of(app.VENV).parent.mkdir(parents=True, exist_ok=True)
            app.python_of(app.VENV).touch()
            app.stamp_of(app.VENV).unlink(missing_ok=True)
            self.has_pip = True
        return types.SimpleNamespace(returncode=code)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A checkout without `.venv`, and what its `app.main` runs and becomes."""
    (tmp_path / "tests").mkdir()
    for name, path in {"STUDIO": "requirements.txt", "TESTS": "tests/requirements.txt"}.items():
        (tmp_path / path).write_text(f"{name.lower()}==1\n")
        monkeypatch.setattr(app, name, tmp_path / path)
    monkeypatch.setattr(app, "HERE", tmp_path)
    monkeypatch.setattr(app, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(app.os, "environ", {})
    monkeypatch.chdir(tmp_path)
    run, became = Runner(), []
    set_up = app.set_up
    monkeypatch.setattr(app, "set_up", lambda requirements, venv: set_up(requirements, venv, run))
    monkeypatch.setattr(app, "become", lambda command: became.append([str(word) for word in command]) or 0)
    return types.SimpleNamespace(path=tmp_path, run=run, became=became, python=str(app.python_of(app.VENV)))


MAKE = ("make", [])
INSTALL = ("install", ["requirements.txt"])
INSTALL_BOTH = ("install", ["requirements.txt", "requirements.txt"])


# ---------------------------------------------------------------- before there are any packages


def test_the_file_needs_nothing_but_python_to_load():
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names and names <= sys.stdlib_module_names


def test_an_old_python_can_read_the_file_and_is_told_in_one_sentence(house, monkeypatch, capfd):
    ast.parse((ROOT / "app.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(sys, "version", "3.10.12 (main)")
    assert app.main(["models"]) == 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", "atelier: Atelier needs Python 3.11 or newer; this is 3.10.12.\n")
    assert not house.run.steps and not house.became


# ---------------------------------------------------------------- what is installed, and when


def test_the_first_start_installs_and_the_second_does_not(house, capfd):
    assert app.main(["models", "--json"]) == 0
    assert house.run.steps == [MAKE, INSTALL]
    assert app.main(["models", "--json"]) == 0
    assert house.run.steps == [MAKE, INSTALL]
    assert house.became == [[house.python, str(house.path / "app.py"), "models", "--json"]] * 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Installing requirements.txt" in err and err.count("Ready.") == 1


def test_the_tests_need_both_files_and_go_to_pytest(house):
    app.main([])
    assert app.main(["test", "tests/test_app.py", "-x"]) == 0
    assert house.run.steps == [MAKE, INSTALL, INSTALL_BOTH]
    assert house.became[-1] == [house.python, "-m", "pytest", "tests/test_app.py", "-x"]
    app.main(["test"])
    app.main([])
    assert house.run.steps == [MAKE, INSTALL, INSTALL_BOTH]


@pytest.mark.parametrize("command, told", [
    ([], {"OMP_WAIT_POLICY": "PASSIVE"}),
    (["generate", "test"], {"OMP_WAIT_POLICY": "PASSIVE"}),
    (["test"], {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
])  # fmt: skip
def test_threads_share_the_cores_as_suits_the_command_unless_somebody_chose_otherwise(house, command, told):
    def about_threads():
        return {name: value for name, value in app.os.environ.items() if name.startswith("OMP_")}

    app.main(command)
    assert about_threads() == told
    app.os.environ |= {name: "chosen" for name in told}
    app.main(command)
    assert set(about_threads().values()) == {"chosen"}


def test_the_word_test_elsewhere_is_no_command(house):
    app.main(["generate", "test"])
    assert house.run.steps == [MAKE, INSTALL]
    assert house.became[-1][-2:] == ["generate", "test"]


def test_the_tests_run_in_the_checkout(house, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    app.main(["test"])
    assert Path.cwd() == house.path


def test_other_requirements_are_installed_into_the_same_environment(house):
    old = app.STUDIO.read_text()
    app.main([])
    app.STUDIO.write_text("studio==2\n")
    app.main([])
    assert house.run.steps == [MAKE, INSTALL, INSTALL]
    app.STUDIO.write_text(old)  # the packages of studio==2 are there now
    app.main([])
    assert house.run.steps == [MAKE, INSTALL, INSTALL, INSTALL]


def test_an_environment_that_someone_else_made_is_filled_and_not_removed(house):
    app.python_of(app.VENV).parent.mkdir(parents=True)
    app.python_of(app.VENV).touch()
    house.run.has_pip = True
    app.main([])
    assert house.run.steps == [INSTALL]


# ---------------------------------------------------------------- what goes wrong on the way


@pytest.mark.parametrize("step, done", [("make", [MAKE]), ("install", [MAKE, INSTALL])])
def test_a_failure_is_said_in_one_sentence_and_mended_by_the_next_start(house, capfd, step, done):
    house.run.codes[step] = 3
    assert app.main([]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].endswith("for the reason above; mend that and run the same command again.")
    assert house.run.steps == done and not house.became
    house.run.codes.clear()
    assert app.main([]) == 0
    assert house.run.steps[-1] == INSTALL and len(house.became) == 1


def test_after_a_failure_of_pip_the_environment_stays(house):
    house.run.codes["install"] = 1
    app.main([])
    house.run.codes.clear()
    app.main([])
    assert house.run.steps == [MAKE, INSTALL, INSTALL]


def test_a_failed_set_up_of_the_tests_leaves_the_studio_to_be_checked_again(house):
    app.main([])
    house.run.codes["install"] = 1
    assert app.main(["test"]) == 1
    assert not app.installed([app.STUDIO], app.VENV)


def test_a_set_up_that_was_cut_short_begins_anew(house, capfd):
    house.run.codes["install"] = KeyboardInterrupt()
    assert app.main([]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "atelier: Stopped; the same command begins the set-up again."
    assert not app.installed([app.STUDIO], app.VENV)
    house.run.codes.clear()
    assert app.main([]) == 0
    assert house.run.steps == [MAKE, INSTALL, MAKE, INSTALL]


def test_an_update_that_was_killed_begins_anew(house):
    app.main([])
    app.STUDIO.write_text("studio==2\n")
    house.run.codes["install"] = SystemExit(9)  # gone without a word, as after a kill
    with pytest.raises(SystemExit):
        app.main([])
    house.run.codes.clear()
    app.main([])
    assert house.run.steps == [MAKE, INSTALL, INSTALL, MAKE, INSTALL]


def test_an_environment_without_pip_is_made_anew(house):
    app.python_of(app.VENV).parent.mkdir(parents=True)
    app.python_of(app.VENV).touch()
    app.main([])
    assert house.run.steps == [MAKE, INSTALL]


@pytest.mark.skipif(os.name == "nt", reason="links to programs are made on POSIX systems")
def test_an_environment_whose_python_is_gone_is_made_anew(house):
    app.main([])
    app.python_of(app.VENV).unlink()
    app.python_of(app.VENV).symlink_to(house.path / "removed" / "python")
    assert not app.installed([app.STUDIO], app.VENV)
    assert not app.usable(app.VENV)


# ---------------------------------------------------------------- what is started


def test_inside_the_environment_the_command_line_gets_the_arguments(house, monkeypatch):
    app.main([])
    asked = []
    monkeypatch.setattr(cli, "main", lambda argv: asked.append(argv) or 7)
    monkeypatch.setattr(sys, "prefix", str(app.VENV / ".." / ".venv"))
    assert app.main(["reconstruct", "a.png", "--out", "b.png"]) == 7
    assert asked == [["reconstruct", "a.png", "--out", "b.png"]]
    assert len(house.became) == 1


def test_becoming_another_command_keeps_its_exit_code_and_arguments():
    code = "import sys; print(sys.argv[1]); sys.exit(5)"
    outer = f"import app, sys; sys.exit(app.become([sys.executable, '-c', {code!r}, 'two  words “”']))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", outer],
        cwd=ROOT, env=os.environ | {"PYTHONUTF8": "1"}, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, "two  words “”\n")


CLI = '''
import multiprocessing
import sys

def child(queue):
    queue.put(sys.prefix)

def main(argv):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(*argv, queue.get() == sys.prefix)
    process.join()
    return 3
'''


def test_a_whole_start_with_a_half_made_environment_and_without_network(tmp_path):
    (tmp_path / "studio").mkdir()
    (tmp_path / "studio" / "__init__.py").touch()
    (tmp_path / "studio" / "cli.py").write_text(CLI)
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "app.py").write_text((ROOT / "app.py").read_text(encoding="utf-8"), encoding="utf-8")
    app.python_of(tmp_path / ".venv").parent.mkdir(parents=True)
    app.python_of(tmp_path / ".venv").touch()
    app.stamp_of(tmp_path / ".venv").touch()

    def start():
        command = [sys.executable, tmp_path / "app.py", "hello"]
        return subprocess.run(command, cwd=tmp_path.parent, capture_output=True, text=True)

    first = start()
    assert (first.returncode, first.stdout) == (3, "hello True\n")  # once: the spawned process started nothing
    assert first.stderr.splitlines()[-1] == "atelier: Ready."
    second = start()
    assert (second.returncode, second.stdout, second.stderr) == (3, "hello True\n", "")


@pytest.mark.skipif(not app.installed([app.STUDIO], app.VENV), reason="would install the studio's packages")
def test_help_names_every_command():
    done = subprocess.run([sys.executable, ROOT / "app.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("generate", "reconstruct", "models", "train", "evaluate", "bench"):
        assert f"    {command} " in done.stdout
