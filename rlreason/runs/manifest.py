"""What a saved folder holds, by hash: whether it is still what was written.

`manifest.json` is written into a folder before it gets its name (see atomic.py): the length and the SHA-256
of every file, and the versions it was made with. A disk that loses or changes something later is noticed when
the folder is read, before anything in it is trusted.
"""

import hashlib
import json
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rlreason
from rlreason.errors import UserError

MANIFEST = "manifest.json"
# All that decides a token or the last digit of a number.
_MADE_WITH = (
    "torch", "transformers", "trl", "accelerate", "safetensors", "peft", "datasets", "tokenizers", "numpy"
)  # fmt: skip
_OWN = "sha256_of_this"
_WEIGHTS = ".safetensors"

# Folders that were found whole, with the sizes and times of their files then: a resumed run reads the same
# gigabytes in several places, and hashes them once.
_found_whole: dict[Path, tuple[tuple[str, int, int], ...]] = {}


def write_manifest(folder: Path) -> None:
    """Write the manifest of all that is in `folder`."""
    files = {
        name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder).items()
    }
    content: dict[str, Any] = {"made_with": made_with(), "files": files}
    content[_OWN] = _digest(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def made_with() -> dict[str, str]:
    """The versions of Python, of this package and of what it computes with; threads and instructions."""
    found = {"python": platform.python_version(), "rlreason": rlreason.__version__, **_installed()}
    if "torch" in sys.modules:  # else nothing has been computed here
        import torch

        found["threads"] = str(torch.get_num_threads())
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
    return found


@cache
def _installed() -> dict[str, str]:
    found = {}
    for name in _MADE_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def has_manifest(folder: Path) -> bool:
    """Whether `folder` can be checked; models from elsewhere, and of earlier versions, have no manifest."""
    return (folder / MANIFEST).is_file()


def damage(folder: Path, *, suffix: str = "") -> str | None:
    """Say what in `folder` is no longer what was written; None where all is, or where it has no manifest.

    Asked of the files that end in `suffix`. Those that were put there later are none of its business: nothing
    of this package reads them.
    """
    if not has_manifest(folder):
        return None
    try:
        files = _read(folder)
        signature = _signature(folder)
        if _found_whole.get(folder.resolve()) == signature:
            return None
        for name, entry in files.items():
            if not name.endswith(suffix):
                continue
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size:,} bytes, not the {entry['bytes']:,} that were written"
            if _sha256(path) != entry["sha256"]:
                return f"{name} has been changed: its SHA-256 is another one"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if not suffix:
        _found_whole[folder.resolve()] = signature
    return None


def other_versions(folder: Path) -> str:
    """What `folder` was made with and is not here now, in words; empty where it is the same or not known."""
    if not has_manifest(folder):
        return ""
    then, now = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["made_with"], made_with()
    changed = [
        f"{name} {version} then, {now.get(name, 'none')} now"
        for name, version in then.items()
        if version != now.get(name)
    ]
    if not changed:
        return ""
    return f"made otherwise ({'; '.join(changed)}): from here on the last digits may differ"


def refuse_damaged(folder: Path, *, field: str) -> None:
    """Raise UserError, naming the config's `field`, if weights in `folder` are no longer what was written.

    Its texts (the configs of model and tokenizer) may have been edited by hand; weights never are.
    """
    what = damage(folder, suffix=_WEIGHTS)
    if what is not None:
        raise UserError(
            f"{field}: {folder} is damaged: {what}. Restore it from a copy, or name another folder (each "
            f"checkpoint in {folder.parent} is a model too). If it was changed on purpose, delete its "
            f"{MANIFEST}."
        )


def _read(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    own = content.pop(_OWN)
    if own != _digest(content):
        raise ValueError("it has been changed")
    files: dict[str, Any] = content["files"]
    return files


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """All files of a folder by their name in it, but for the manifest. Links are followed."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def _signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    paths = {**_files(folder), MANIFEST: folder / MANIFEST}
    return tuple((name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in paths.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
