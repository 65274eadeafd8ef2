"""A run directory is created, resumed or refused; it is never overwritten and never half-written."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from rlreason.errors import UserError
from rlreason.runs import RunDirectory

CONFIG = """\
name: quickstart
seed: 0
threads: 2
model: {path: embedded, lora: null}
grpo: {steps: 60, optim: {lr: 1.0e-05}}
log: {sample_every: 5, keep_checkpoints: 2}
"""


def opened(root: Path, config: str = CONFIG) -> RunDirectory:
    return RunDirectory.open(root, config)


def finished(root: Path) -> None:
    with opened(root) as run:
        run.save_directory("model", lambda folder: write(folder, "final"))
        run.write_eval({"before": {}, "after": {}, "gain": {}})


def write(folder: Path, content: str) -> None:
    (folder / "weights").write_text(content)


def steps(path: Path) -> list[tuple[str, int]]:
    records = [json.loads(line) for line in path.open()]
    return [(record["stage"], record["step"]) for record in records]


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"
    }


def test_a_new_run_writes_its_config(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "quickstart"
    with opened(root) as run:
        assert not run.resumed
        assert run.root == root
    assert (root / "config.yaml").read_text() == CONFIG
    assert snapshot(root).keys() == {"config.yaml"}


def test_an_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert not run.resumed


def test_a_folder_left_by_a_crash_before_the_config_becomes_a_run(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.partial").write_text("seed")
    with opened(tmp_path) as run:
        assert not run.resumed
    assert snapshot(tmp_path).keys() == {"config.yaml"}


def test_the_same_config_resumes(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.append_metrics({"stage": "grpo", "step": 1})
    with opened(
        tmp_path,
        "# the same, written differently\n" + CONFIG.replace("{path: embedded, ", "{path: 'embedded', "),
    ) as run:
        assert run.resumed
        run.append_metrics({"stage": "grpo", "step": 2})
    assert steps(tmp_path / "metrics.jsonl") == [("grpo", 1), ("grpo", 2)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps: 60", "steps: 100"),
        ("sample_every: 5", "sample_every: 1"),
        (", keep_checkpoints: 2", ""),
        ("threads: 2", "threads: null"),
        ("threads: 2\n", ""),
        ("grpo: {", "grpo: {micro_batch_tokens: 256, "),
        ("log: {", "rollout: {max_sequences: 8}\nlog: {"),
        ("name: quickstart", "name: renamed"),
        ("seed: 0", "seed: 0\noutput_dir: elsewhere"),
    ],
)
def test_keys_that_may_change_resume_and_are_written(tmp_path: Path, old: str, new: str) -> None:
    opened(tmp_path).close()
    with opened(tmp_path, CONFIG.replace(old, new)) as run:
        assert run.resumed
    assert (tmp_path / "config.yaml").read_text() == CONFIG.replace(old, new)


def test_another_config_is_refused_with_every_key_that_differs(tmp_path: Path) -> None:
    opened(tmp_path).close()
    before = snapshot(tmp_path)
    other = CONFIG.replace("seed: 0", "seed: 1\nprompt: {max_tokens: 9}").replace("1.0e-05", "2.0e-05")
    other = other.replace("steps: 60", "steps: 61").replace("lora: null", "lora: {rank: 16}")
    with pytest.raises(UserError) as caught:
        opened(tmp_path, other)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds a run of another config. These keys differ:",
        "  grpo.optim.lr: 1e-05 when it was started, 2e-05 now",
        "  model.lora: None when it was started, not set now",
        "  model.lora.rank: not set when it was started, 16 now",
        "  prompt.max_tokens: not set when it was started, 9 now",
        "  seed: 0 when it was started, 1 now",
        "Change `name=` to start a new run, or restore those keys to go on with this one.",
    ]
    assert snapshot(tmp_path) == before
    opened(tmp_path).close()  # the refusal kept no lock


@pytest.mark.parametrize("name", ["notes.txt", ".git", "model", ".hidden"])
def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"not empty and holds no run .*'{name}'.*`name=`"):
        opened(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="is a file"):
        opened(tmp_path / "run")
    with pytest.raises(UserError, match="could not be written"):
        opened(tmp_path / "run" / "below")


@pytest.mark.parametrize("content", ["a: [", "text", "\xff"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.yaml .*`name=`"):
        opened(tmp_path)
    assert (tmp_path / "config.yaml").read_bytes() == content.encode("latin-1")


def test_a_finished_run_is_refused_and_untouched(tmp_path: Path) -> None:
    finished(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(
        UserError, match=r"finished: .*model, its result .*eval\.json\. Choose another `name=`"
    ):
        opened(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("evaluation", [None, {"before": {"accuracy": 0.2}}])
def test_a_run_that_was_cut_off_before_its_last_evaluation_goes_on(
    tmp_path: Path, evaluation: dict[str, Any] | None
) -> None:
    with opened(tmp_path) as run:
        run.save_directory("model", lambda folder: write(folder, "final"))
        if evaluation is not None:
            run.write_eval(evaluation)
    with opened(tmp_path) as run:
        assert run.resumed
        kept = tmp_path / "eval.json"
        assert (json.loads(kept.read_text()) if kept.exists() else None) == evaluation
        assert run.saved_directory("model") == tmp_path / "model"


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_closing_twice_is_fine_and_ends_writing(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.close()
    run.close()
    with pytest.raises(ValueError, match="closed"):
        run.append_metrics({"stage": "grpo", "step": 1})


def test_rewinding_drops_later_records_of_that_stage_only(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        for stage, step in [("sft", 1), ("sft", 2), ("grpo", 1), ("grpo", 2), ("grpo", 3)]:
            run.append_metrics({"stage": stage, "step": step})
            run.append_samples([{"stage": stage, "step": step}] * 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "st')
    with opened(tmp_path) as run:
        run.rewind(1, "grpo")
        run.append_metrics({"stage": "grpo", "step": 2})
    expected = [("sft", 1), ("sft", 2), ("grpo", 1)]
    assert steps(tmp_path / "metrics.jsonl") == [*expected, ("grpo", 2)]
    assert steps(tmp_path / "samples.jsonl") == [pair for pair in expected for _ in range(2)]


def test_rewinding_drops_later_evaluations_within_the_stage_that_samples(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        for label in ("before", "sft", "step-000001", "step-000002", "step-000003"):
            run.save_directory(f"evaluations/{label}", lambda folder: None)
        run.rewind(0, "sft")
        run.rewind(1, "grpo")
    assert {entry.name for entry in (tmp_path / "evaluations").iterdir()} == {"before", "sft", "step-000001"}


def test_a_record_that_could_not_be_rewound_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        with pytest.raises(ValueError, match="stage=None"):
            run.append_metrics({"step": 1})
        with pytest.raises(ValueError, match="step=None"):
            run.append_samples([{"stage": "grpo"}])


def test_eval_is_json_without_nan(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.write_eval({"before": {"accuracy": math.nan, "ci95": [0.1, 0.2], "n": 200}})
    assert json.loads((tmp_path / "eval.json").read_text()) == {
        "before": {"accuracy": None, "ci95": [0.1, 0.2], "n": 200},
        "non_finite": {"before.accuracy": "nan"},
    }


def test_checkpoints_carry_the_step_reached_and_the_newest_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert run.latest_checkpoint() is None
        assert run.checkpoint_path(40) == tmp_path / "checkpoints" / "step-000040"
        run.save_directory("checkpoints/sft", lambda folder: write(folder, "sft"))
        for step in (20, 40, 1_000_000):
            run.save_checkpoint(step, lambda folder, step=step: write(folder, str(step)))
        assert run.latest_checkpoint() == (1_000_000, tmp_path / "checkpoints" / "step-1000000")
        names = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir())
        assert names == ["sft", "step-000040", "step-1000000"]
        with pytest.raises(ValueError, match="step=-1"):
            run.checkpoint_path(-1)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        for content in ("first", "second"):
            run.save_checkpoint(40, lambda folder, content=content: write(folder, content))
        assert (run.checkpoint_path(40) / "weights").read_text() == "second"


def test_one_checkpoint_is_the_least_to_keep(tmp_path: Path) -> None:
    with opened(tmp_path, CONFIG.replace("keep_checkpoints: 2", "keep_checkpoints: 0")) as run:
        for step in (1, 2):
            run.save_checkpoint(step, lambda folder: write(folder, ""))
        assert run.latest_checkpoint() == (2, run.checkpoint_path(2))
        assert not run.checkpoint_path(1).exists()


def test_leftovers_of_an_interrupted_save_are_no_checkpoints_and_go(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.save_checkpoint(20, lambda folder: write(folder, "20"))
        checkpoints = tmp_path / "checkpoints"
        (checkpoints / ".step-000040.partial" / "inner").mkdir(parents=True)
        (checkpoints / "step-60").mkdir()  # not a name that is ever given
        assert run.latest_checkpoint() == (20, run.checkpoint_path(20))
        assert sorted(entry.name for entry in checkpoints.iterdir()) == ["step-000020", "step-60"]


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        write(folder, "half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as run:
        for step in (20, 40):
            run.save_checkpoint(step, lambda folder, step=step: write(folder, str(step)))
        run.append_metrics({"stage": "grpo", "step": 40})
        before = snapshot(tmp_path)
        with pytest.raises(UserError, match=r"step-000060 could not be saved: the disk is full.*Free some"):
            run.save_checkpoint(60, full)
        with pytest.raises(UserError, match=r"model could not be saved: the disk is full"):
            run.save_directory("model", full)
        assert run.latest_checkpoint() == (40, run.checkpoint_path(40))
        assert snapshot(tmp_path) == before
        assert not any(entry.name.startswith(".step") for entry in (tmp_path / "checkpoints").iterdir())


def test_ctrl_c_while_saving_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        write(folder, "half")
        raise KeyboardInterrupt

    with opened(tmp_path) as run:
        run.save_checkpoint(20, lambda folder: write(folder, "20"))
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(40, interrupted)
        assert run.latest_checkpoint() == (20, run.checkpoint_path(20))


def test_a_crash_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path) -> None:
        (path / "weights").unlink()
        raise KeyboardInterrupt

    with opened(tmp_path) as run:
        for step in (1, 2):
            run.save_checkpoint(step, lambda folder: write(folder, ""))
        monkeypatch.setattr("shutil.rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(3, lambda folder: write(folder, ""))
        monkeypatch.undo()
        assert not run.checkpoint_path(1).exists()
        assert run.latest_checkpoint() == (3, run.checkpoint_path(3))


def test_directories_are_saved_replaced_and_found(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert run.saved_directory("checkpoints/sft") is None
        for content in ("first", "second"):
            path = run.save_directory(
                "checkpoints/sft", lambda folder, content=content: write(folder, content)
            )
        assert path == tmp_path / "checkpoints" / "sft" == run.saved_directory("checkpoints/sft")
        assert (path / "weights").read_text() == "second"


def test_a_directory_that_a_crash_set_aside_is_found_again(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        path = run.save_directory("evaluations/before", lambda folder: write(folder, "old"))
        os.replace(path, path.with_name(".before.previous"))
        assert run.saved_directory("evaluations/before") == path
        assert (path / "weights").read_text() == "old"


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "..", "../model", "a/../../b", "/model", "a//b", "a/", "C:\\model", "a\\b", "a\0b", "~"],
        *["model\n", ".lock", "a/.b", "config.yaml", "metrics.jsonl", "samples.jsonl", "eval.json"],
        "checkpoints",
    ],
)
def test_names_that_climb_out_or_take_the_place_of_files_are_refused(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "run") as run:
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match="cannot name a folder of a run"):
            run.save_directory(name, lambda folder: write(folder, ""))
        with pytest.raises(ValueError, match="cannot name a folder of a run"):
            run.saved_directory(name)
        assert snapshot(tmp_path) == before


def test_a_disk_that_refuses_the_config_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", read_only)
        with pytest.raises(UserError, match=r"config\.yaml could not be written.*output_dir="):
            opened(tmp_path / "run")
    with opened(tmp_path / "run") as run:
        assert not run.resumed


@pytest.mark.parametrize(
    ("stage", "finished"), [("sft", True), ("[pretrain, sft, reward_model]", True), ("[sft, grpo]", False)]
)
def test_a_run_without_reinforcement_learning_is_finished_once_it_has_its_model(
    tmp_path: Path, stage: str, finished: bool
) -> None:
    root, config = tmp_path / "run", f"stage: {stage}\n"
    with RunDirectory.open(root, config) as run:
        run.save_directory("model", lambda folder: (folder / "weights").write_text("1") and None)
    if not finished:
        RunDirectory.open(root, config).close()
        return
    with pytest.raises(UserError, match=r"is finished: its model is [^,]*model\. Choose another `name=`"):
        RunDirectory.open(root, config)


@pytest.mark.parametrize("part", ["metrics.jsonl", "checkpoints", "model"])
def test_a_run_whose_parts_are_links_is_refused_and_nothing_behind_them_is_touched(
    tmp_path: Path, part: str
) -> None:
    root, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with opened(root):
        pass
    (elsewhere / "step-000001").mkdir(parents=True)
    (elsewhere / ".video.partial").write_text("half of it")
    (elsewhere / "keys.txt").write_text("mine\nno newline")
    before = snapshot(elsewhere)
    (root / part).symlink_to(elsewhere / "keys.txt" if part.endswith("jsonl") else elsewhere)
    with pytest.raises(UserError, match=r"is a link to .*elsewhere.*output_dir="):
        RunDirectory.open(root, CONFIG)
    assert snapshot(elsewhere) == before


def test_what_other_programs_leave_in_a_run_is_not_touched(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".thesis.pdf.partial").write_text("half of it")
    (tmp_path / ".metrics.jsonl.partial").write_text("ours")
    with opened(tmp_path):
        pass
    assert (tmp_path / ".partial").is_dir()
    assert (tmp_path / ".thesis.pdf.partial").read_text() == "half of it"
    assert not (tmp_path / ".metrics.jsonl.partial").exists()
