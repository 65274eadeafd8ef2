"""Files and folders are wholly there or not there, whatever fails and whenever."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlreason.errors import UserError
from rlreason.runs import atomic
from rlreason.runs.atomic import atomic_directory, explained, recover, write_text

REPOSITORY = Path(__file__).parents[2]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def save(path: Path, content: str) -> None:
    with atomic_directory(path) as folder:
        (folder / "weights").write_text(content)


def tree(root: Path) -> dict[str, str]:
    """Every file below `root` with its content."""
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    write_text(path, "old\n")
    write_text(path, "né\n")
    assert path.read_bytes() == "né\n".encode()
    assert tree(tmp_path).keys() == {"eval.json"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_text_stays_what_it_was_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "eval.json"
    write_text(path, "old")
    monkeypatch.setattr(os, function, full)
    with pytest.raises(UserError, match=r"eval\.json could not be saved: the disk is full .*Free some space"):
        write_text(path, "new")
    assert tree(tmp_path) == {"eval.json": "old"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_stays_what_it_was_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, exists: bool
) -> None:
    if exists:
        save(tmp_path / "model", "old")
    before = tree(tmp_path)
    monkeypatch.setattr(os, function, full)
    with pytest.raises(UserError, match="model could not be saved: the disk is full"):
        save(tmp_path / "model", "new")
    assert tree(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == exists


def test_the_second_rename_failing_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model", "old")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            full()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="disk is full"):
        save(tmp_path / "model", "new")
    assert tree(tmp_path) == {"model/weights": "old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), UserError("not this way")])
def test_an_error_of_the_writer_passes_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    save(tmp_path / "model", "old")

    def interrupted() -> None:
        with atomic_directory(tmp_path / "model") as folder:
            (folder / "weights").write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        interrupted()
    assert caught.value is error
    assert tree(tmp_path) == {"model/weights": "old"}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "Make the folder writable"),
        (PermissionError(errno.EACCES, "Permission denied"), "output_dir="),
        (OSError(errno.EIO, "Input/output error"), "Input/output error.*start the same command again"),
        # What safetensors raises; it derives from Exception alone.
        (Exception("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_errors_of_the_disk_name_path_and_remedy(tmp_path: Path, error: Exception, says: str) -> None:
    path = tmp_path / "checkpoints" / "step-000040"
    with pytest.raises(UserError, match=says) as caught, explained(path):
        raise error
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is error


def test_an_error_that_does_not_speak_of_the_disk_is_judged_by_the_space_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch.save on a full disk: "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534".
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    monkeypatch.setattr(atomic, "_free_bytes", lambda path: 1 << 30)
    with pytest.raises(RuntimeError), explained(tmp_path):
        raise error
    monkeypatch.setattr(atomic, "_free_bytes", lambda path: 0)
    with pytest.raises(UserError, match="the disk is full"), explained(tmp_path):
        raise error


def test_a_crash_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    save(tmp_path / "model", "old")
    os.replace(tmp_path / "model", tmp_path / ".model.previous")
    (tmp_path / ".model.partial").mkdir()
    recover(tmp_path)
    assert tree(tmp_path) == {"model/weights": "old"}


def test_a_crash_after_the_second_rename_keeps_the_new_folder(tmp_path: Path) -> None:
    save(tmp_path / "model", "new")
    save(tmp_path / ".model.previous", "old")
    recover(tmp_path)
    assert tree(tmp_path) == {"model/weights": "new"}
    recover(tmp_path / "missing")


def test_replacing_a_link_leaves_what_it_points_at(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", "theirs")
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    save(tmp_path / "model", "ours")
    assert tree(tmp_path) == {"elsewhere/weights": "theirs", "model/weights": "ours"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is")
def test_every_file_and_folder_is_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with atomic_directory(tmp_path / "model") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
        (folder / "b").touch()
    assert events == [
        "fsync a",
        "fsync inner",
        "fsync b",
        "fsync .model.partial",
        "rename",
        f"fsync {tmp_path.name}",
    ]


_ON_A_FULL_DISK = """
import sys
from pathlib import Path
from rlreason.errors import UserError
from rlreason.runs import RunDirectory

root = Path(sys.argv[1])
run = RunDirectory.open(root / "run", "seed: 1")
run.append_metrics({"stage": "grpo", "step": 1})
run.save_checkpoint(1, lambda folder: folder.joinpath("weights").write_bytes(b"1" * 100_000))

def attempt(work):
    try:
        work()
    except UserError as error:
        assert "the disk is full" in str(error), error
    else:
        raise SystemExit("nothing was refused")

attempt(lambda: run.save_checkpoint(2, lambda folder: folder.joinpath("w").write_bytes(b"2" * 2_000_000)))
assert [p.name for p in (root / "run" / "checkpoints").iterdir()] == ["step-000001"]
with (root / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(1000))
    except OSError:
        pass
attempt(lambda: run.append_metrics({"stage": "grpo", "step": 2, "text": "x" * 10_000}))
attempt(lambda: run.write_eval({"before": "x" * 10_000}))
(root / "filler").unlink()
run.append_metrics({"stage": "grpo", "step": 2})
run.save_checkpoint(2, lambda folder: folder.joinpath("weights").write_bytes(b"2" * 100_000))
assert (root / "run" / "metrics.jsonl").read_text().count("\\n") == 2
run.close()
print("intact")
"""


def test_a_really_full_disk(tmp_path: Path) -> None:
    """Fills a file system of 1 MB, mounted for this test alone; skipped where that is not allowed."""
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    try:
        done = subprocess.run(
            [*command, str(tmp_path), sys.executable, _ON_A_FULL_DISK],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("no mount namespaces here")
    assert (done.returncode, done.stdout) == (0, "intact\n"), done.stderr
