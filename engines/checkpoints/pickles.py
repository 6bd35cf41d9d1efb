"""Old checkpoints as pickles, turned into safetensors once: in a process of its own that can do nothing else.

A pickle is a program. torch reads those of tensors without running any other (`weights_only`); that process has no
network, starts nothing, writes one file, and may take so much memory and no more.
"""

import json
import subprocess
import sys
from pathlib import Path

from engines.checkpoints import files
from engines.errors import BadCheckpoint

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
# where tensors lie, best first; the last is of embeddings
WITHIN = ("state_dict", "params_ema", "params", "model_state_dict", "module", "model", "string_to_param")
ROOM = 2 * 2**30  # bytes of address space, beside what torch itself takes and what the file does
TIMES = 4  # the file's own size, in address space: read, unpacked, and written
SECONDS = 1800


def convert(source, target):
    """Write the tensors of the pickle `source` to the safetensors file `target`; returns a report as a dict.

    It tells `tensors`, how many there are, `bytes`, `within`, the part of the file that they lay in, and `left_out`,
    the names of what was no tensor. Raises `BadCheckpoint` with one sentence for anything else than tensors, for a
    file that cannot be read, and where memory does not do.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise files.cannot_be_opened(source)
    partly = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        paths = json.dumps([str(source.resolve()), str(partly.resolve())])
        done = subprocess.run(
            [sys.executable, "-m", "engines.checkpoints.pickles"], input=paths, capture_output=True, text=True,
            timeout=SECONDS, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
        report = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        if done.returncode or "tensors" not in report:
            why = report.get("refused", "reading it ended the process, perhaps for want of memory")
            raise BadCheckpoint(f"{source.name} was not converted: {why}.")
        files.read_header(partly)
        partly.replace(target)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BadCheckpoint(f"{source.name} was not converted: {target} could not be written in time.") from error
    finally:
        partly.unlink(missing_ok=True)
    return report


def waiting(folder):
    """The pickles in a folder of models, however deep, that were not converted yet: their paths and their targets."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    return [(path, path.with_suffix(".safetensors")) for path in found if not path.with_suffix(".safetensors").exists()]


def tensors_in(found):
    """`(tensors, within, left_out)` of what a pickle holds: the tensors by their names, and what was none."""
    import torch

    within = ""
    if isinstance(found, dict):
        for name in WITHIN:
            inner = found.get(name)
            if isinstance(inner, dict) and any(isinstance(value, torch.Tensor) for value in inner.values()):
                found, within = inner, name
                break
    rows = found.items() if isinstance(found, dict) else ()
    tensors = {str(name): value for name, value in rows if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no names with tensors")
    return tensors, within, [str(name) for name, value in rows if not isinstance(value, torch.Tensor)]


# ---------------------------------------------------------------- the process of its own


def _main(source, target):
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    _confine(Path(source).stat().st_size, target)
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
        tensors, within, left_out = tensors_in(found)
        # what shares memory in a pickle has its own in safetensors
        tensors = {name: value.detach().to_dense().clone().contiguous() for name, value in tensors.items()}
        save_file(tensors, target)
    except MemoryError:
        return {"refused": "it claims more memory than a file of its size can need"}
    except Exception as error:  # whatever a stranger's file leads to
        return {"refused": _said(error)}
    return {
        "tensors": len(tensors), "bytes": sum(value.nbytes for value in tensors.values()), "within": within,
        "left_out": left_out,
    }  # fmt: skip


def _said(error):
    text = str(error)
    if "Unsupported global" in text or "weights_only" in text or "Weights only" in text:
        return "it holds more than tensors, which would be run on reading; fetch it as safetensors"
    if "allocate memory" in text or "out of memory" in text.lower():
        return "it claims more memory than a file of its size can need"
    return text.splitlines()[0].rstrip(".") if isinstance(error, ValueError) else "it is damaged, or no file of torch"


def _confine(size, target):
    # no network, no other program, no other file written; and only so much memory
    def refuse(event, arguments):
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes and str(arguments[0]) != target or event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is refused while a checkpoint is read")

    try:
        import resource
    except ImportError:  # of systems without such limits
        pass
    else:
        limit = _address_space() + ROOM + TIMES * size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(refuse)


def _address_space():
    # bytes that this process has taken by now, which with many processors are many
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 16 * 2**30
    return pages * 4096


FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename",
    "shutil.", "ctypes.dlopen", "urllib.",
)  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_main(*json.load(sys.stdin))))
