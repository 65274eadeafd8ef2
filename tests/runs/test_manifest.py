"""What was saved is told from what a disk, or a hand, has made of it since."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlreason.errors import UserError
from rlreason.runs import RunDirectory
from rlreason.runs.manifest import damage, other_versions, refuse_damaged, write_manifest


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(b"abc")
    (folder / "inner" / "state.json").write_text("{}")
    write_manifest(folder)
    return folder


def test_it_names_every_file_by_its_hash(saved: Path) -> None:
    files = json.loads((saved / "manifest.json").read_text())["files"]
    # SHA-256 of "abc", from FIPS 180-2, appendix B.1.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files["weights"] == {"bytes": 3, "sha256": known}
    assert files["inner/state.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert damage(saved) is None


def same_length(file: Path) -> None:
    """With the old time too, as a disk would do it."""
    before = file.stat()
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("weights", lambda file: file.write_bytes(b"ab"), "weights has 2 bytes, not the 3"),
        ("weights", same_length, "weights has been changed"),
        ("inner/state.json", Path.unlink, "inner/state.json is missing"),
        ("manifest.json", lambda file: file.write_text("{"), "manifest.json cannot be read"),
        ("manifest.json", lambda file: file.write_text("[]"), "manifest.json cannot be read"),
        ("manifest.json", lambda file: file.write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
        (
            "manifest.json",
            lambda file: file.write_text(file.read_text().replace('"bytes": 3', '"bytes": 2')),
            "it has been changed",
        ),
    ],
)
def test_damage_is_named(saved: Path, name: str, harm: Callable[[Path], None], said: str) -> None:
    harm(saved / name)
    assert said in str(damage(saved))


def test_a_model_whose_weights_are_damaged_is_refused_and_one_whose_texts_were_edited_is_not(
    saved: Path,
) -> None:
    (saved / "model.safetensors").write_bytes(b"abc")
    (saved / "manifest.json").unlink()
    write_manifest(saved)
    (saved / "inner" / "state.json").write_text('{"edited": true}')
    assert "inner/state.json has 16 bytes" in str(damage(saved))
    refuse_damaged(saved, field="model.path")
    (saved / "model.safetensors").write_bytes(b"abd")
    with pytest.raises(
        UserError, match=r"model\.path: .*model is damaged: model\.safetensors has been changed"
    ):
        refuse_damaged(saved, field="model.path")


def test_what_was_put_there_later_and_what_has_no_manifest_is_no_damage(saved: Path, tmp_path: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    assert damage(saved) is None
    assert damage(tmp_path) is None


def test_a_folder_is_hashed_once_and_again_when_it_has_changed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert damage(saved) is None
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed once more"))
        assert damage(saved) is None
    (saved / "weights").write_bytes(b"abd")
    os.utime(saved / "weights", ns=(1, 1))
    assert "weights has been changed" in str(damage(saved))


def test_other_versions_are_told(saved: Path) -> None:
    assert other_versions(saved) == ""
    path = saved / "manifest.json"
    content = json.loads(path.read_text())
    now = content["made_with"]["torch"]
    content["made_with"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    assert f"torch 1.0 then, {now} now" in other_versions(saved)


def test_another_number_of_threads_is_told(saved: Path) -> None:
    before = torch.get_num_threads()
    write_manifest(saved)
    torch.set_num_threads(before + 1)
    try:
        assert f"threads {before} then, {before + 1} now" in other_versions(saved)
    finally:
        torch.set_num_threads(before)


def write(folder: Path) -> None:
    (folder / "weights").write_text(folder.name)


def test_checkpoints_of_stages_are_kept_apart_and_dropped_with_their_stage(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, "name: x\n") as run:
        for step in (10, 20, 30):
            run.save_checkpoint(step, write, stage="reward_model")
            run.save_checkpoint(step, write)
        assert run.latest_checkpoint("sft") is None
        found = run.latest_checkpoint("reward_model")
        assert found == (30, tmp_path / "checkpoints" / "reward_model-step-000030")
        run.drop_checkpoints("reward_model")
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == ["step-000020", "step-000030"]


def test_the_best_checkpoint_stays_until_another_one_is_better(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, "name: x\n") as run:
        for step, best in ((1, 1), (2, 1), (3, 1), (4, 1)):
            run.save_checkpoint(step, write, best=best)
        assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["1", "3", "4"]
        run.save_checkpoint(5, write, best=5)
        assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["4", "5"]


def test_a_name_is_not_taken_twice_for_what_is_set_aside(tmp_path: Path) -> None:
    for _ in range(2):
        with RunDirectory.open(tmp_path, "name: x\n") as run:
            run.save_checkpoint(1, write)
            run.save_checkpoint(2, write)
        (tmp_path / "checkpoints/step-000002/weights").write_text("other")
        with RunDirectory.open(tmp_path, "name: x\n") as run:
            assert run.latest_checkpoint() == (1, tmp_path / "checkpoints/step-000001")
            assert "step-000002 is damaged" in run.damaged[0]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged-step-000002", "damaged-step-000002-2", "step-000001"]


def test_the_lock_goes_with_the_run(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path, "name: x\n")
    assert (tmp_path / ".lock").exists()
    run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
