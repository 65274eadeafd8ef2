"""`python -m rlreason report`: what the file holds, whatever state the run is in, and its errors."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic import synthetic_run

from rlreason import cli
from rlreason.html_report import report as report_module
from rlreason.html_report import report_command, write_report
from rlreason.html_report.page import MARK
from rlreason.html_report.reading import read_page
from rlreason.html_report.report import MOST_RUNS, names

STATIC = Path(__file__).parents[2] / "rlreason" / "html_report" / "static"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "done", steps=12, groups=2, group_size=4)


def blocks(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def report(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = cli.main(["report", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_one_run_gives_a_file_in_its_directory(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = report(capsys, finished)
    path = finished / "report.html"
    assert code == cli.DONE
    assert out == f"report: {path} ({path.stat().st_size / 1e6:.1f} MB, 96 of 96 completions)\n"
    found = blocks(path.read_text())
    run = found["data"]["runs"][0]
    evaluation = json.loads((finished / "eval.json").read_text())
    assert run["headline"]["gain"]["value"] == pytest.approx(evaluation["gain"]["value"], rel=1e-4)
    assert run["headline"]["after"]["accuracy"] == pytest.approx(evaluation["after"]["accuracy"], rel=1e-4)
    assert [stage["name"] for stage in run["stages"]] == ["sft", "grpo"]
    assert run["finished"]
    assert len(found["completions-0"]["groups"]) == 12 * 2


def test_the_policy_forbids_everything_but_the_scripts_and_the_style_of_the_page(finished: Path) -> None:
    write_report([finished], finished / "report.html")
    page = (finished / "report.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; script-src ('sha256-\S{44}' ?){2}; style-src 'sha256-\S{44}'; "
        r"base-uri 'none'; form-action 'none'",
        policy[1],
    )
    assert not re.search(r'(src|href|action)="(?!#)', page.replace('href="#summary"', ""))
    assert not re.search(r"\sstyle=|\son\w+=", page.split('id="data"')[0].split("</style>")[1])


def test_scripts_make_elements_and_never_html() -> None:
    for path in (STATIC / "app").glob("*.js"):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(", text
        )
        assert len(text.splitlines()) <= 400, path


def test_text_of_a_run_cannot_leave_its_place(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(finished, root)
    evil = "</script><script>alert(1)</script><!-- \u2028 \x1b]0;x\x07"
    record = {
        "stage": "grpo",
        "step": 1,
        "group": 0,
        "text": evil,
        "question": evil,
        "scores": {evil: {"reason": evil}},
    }
    (root / "samples.jsonl").write_text(json.dumps(record) + "\n")
    write_report([root], root / "report.html")
    page = (root / "report.html").read_text()
    assert page.count("</script>") == page.count("<script") == 4  # data, library, script, completions
    assert "<img" not in page
    assert "\x1b" not in page
    group = blocks(page)["completions-0"]["groups"][0]
    assert group[4][0][4][1].startswith("</script><script>alert(1)</script>")


def test_a_completion_of_ten_megabytes_makes_no_large_page(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    with (root / "samples.jsonl").open("a") as file:
        record = {"stage": "grpo", "step": 12, "group": 5, "text": "<" * 10_000_000, "scores": {}}
        file.write(json.dumps(record) + "\n")
    written = report_command([root], None)
    assert (written.shown, written.completions) == (97, 97)
    assert written.size < 300_000


def test_control_characters_make_no_larger_page(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes 1 byte in the run and 3 in the page: the limit holds for what is in the page."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = {"stage": "grpo", "group": 0, "text": "\x1b" * 5_000, "scores": {}}
    lines = [json.dumps({**record, "step": step}) + "\n" for step in range(1, 101)]
    (run / "samples.jsonl").write_text("".join(lines))
    monkeypatch.setattr(report_module, "ROOM", 400_000)
    write_report([run], run / "report.html")
    packed = blocks((run / "report.html").read_text())
    assert len(json.dumps(packed["completions-0"], ensure_ascii=False).encode()) <= 400_000


def test_a_run_that_goes_on_has_no_result_yet(tmp_path: Path) -> None:
    root = synthetic_run(tmp_path / "run", steps=12, groups=2, group_size=2, finished=False)
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "st')
    with (root / "samples.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "step": 9, "gr')
    assert report_command([root], None).shown == 8 * 2 * 2
    run = read_page(root, name="run", points=100)
    assert not run["finished"]
    assert run["headline"]["before"]["n"] == 250
    assert (run["headline"]["after"], run["headline"]["gain"]) == (None, None)
    assert (run["stages"][-1]["last"], run["stages"][-1]["planned"]) == (8, 12)
    assert run["remarks"] == []


def test_damage_is_told_and_the_rest_shown(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    for name in ("config.yaml", "eval.json", "evaluations/before/completions.json"):
        (root / name).write_text("{nonsense: [")
    lines = (root / "metrics.jsonl").read_text().splitlines()
    (root / "metrics.jsonl").write_text("\n".join([*lines[:-1], "garbage", lines[-1]]) + "\n")
    run = blocks_of(root)["data"]["runs"][0]
    assert run["headline"]["before"] is None
    assert run["headline"]["after"]["n"] == 250  # the evaluation itself is still there
    assert any("1 lines are no JSON records" in remark for remark in run["remarks"])
    assert run["stages"][-1]["last"] == 12


def blocks_of(root: Path) -> dict[str, Any]:
    report_command([root], None)
    return blocks((root / "report.html").read_text())


@pytest.mark.parametrize("stages", [["pretrain"], ["sft"], ["sft", "reward_model"]])
def test_runs_without_reinforcement_learning(stages: list[str], tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "model").mkdir(parents=True)
    (root / "config.yaml").write_text(json.dumps({"stage": stages}))
    lines = [{"stage": name, "step": step, "steps": 4, "loss": 1.0} for name in stages for step in (2, 4)]
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if "reward_model" in stages:
        (root / "checkpoints/reward_model").mkdir(parents=True)
        found = {
            "accuracy": 0.8,
            "ci95": [0.7, 0.9],
            "n": 50,
            "length_accuracy": 0.6,
            "calibration_error": 0.05,
        }
        (root / "checkpoints/reward_model/evaluation.json").write_text(json.dumps(found))
    run = blocks_of(root)["data"]["runs"][0]
    assert [stage["name"] for stage in run["stages"]] == stages
    assert run["finished"]
    assert run["doctor"] is None
    assert run["sample"]["kept"] == 0
    assert (run["reward_model"] or {}).get("accuracy") == (0.8 if "reward_model" in stages else None)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("stage: [grpo]\n")
    run = blocks_of(tmp_path)["data"]["runs"][0]
    assert (run["stages"], run["online"], run["doctor"]) == ([], None, None)


def test_what_the_doctor_finds_is_in_the_page(tmp_path: Path) -> None:
    root = synthetic_run(tmp_path / "run", steps=30, groups=2, group_size=2)
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    cut = [line | ({"truncated": 0.7} if line["stage"] == "grpo" else {}) for line in lines]
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in cut))
    found = {one["name"]: one for one in read_page(root, name="run", points=100)["doctor"]["findings"]}
    assert found["cut_off"]["level"] == "warning"
    assert found["cut_off"]["since"] == 5
    assert "70.0% of the completions were cut off" in found["cut_off"]["seen"]
    assert found["cut_off"]["until"] is None
    assert found["cut_off"]["hints"]


def test_many_steps_become_points_of_several(tmp_path: Path) -> None:
    lines = [{"stage": "grpo", "step": step, "reward": float(step)} for step in range(1, 101)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = read_page(tmp_path, name="run", points=40)["stages"][0]
    # 100 steps in at most 40 points: three steps a point, the last point has one. Means of 1, 2, 3 and so on.
    assert stage["bin"] == 3
    assert stage["x"] == [*range(3, 100, 3), 100]
    assert stage["series"]["reward"] == [*range(2, 99, 3), 100]


def test_several_runs_are_compared_in_one_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = synthetic_run(tmp_path / "other", seed=1, steps=12, groups=2, group_size=4, lr=3e-5)
    monkeypatch.chdir(tmp_path)
    written = report_command([finished, other], None)
    assert written.path == Path("report.html")
    found = blocks((tmp_path / "report.html").read_text())
    assert [run["name"] for run in found["data"]["runs"]] == ["done", "other"]
    assert {"completions-0", "completions-1"} <= found.keys()
    assert ["grpo.optim.lr", ["1e-05", "3e-05"]] in found["data"]["differences"]
    assert not {key for key, _ in found["data"]["differences"]} & {"name", "output_dir"}


def test_runs_of_one_name_are_told_apart_by_the_folder_above() -> None:
    assert names([Path("/a/x/run"), Path("/b/y/run")]) == ["x/run", "y/run"]
    assert names([Path("/a/x/run"), Path("/b/y/other")]) == ["run", "other"]


def test_an_older_report_is_replaced_and_nothing_else_is(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert report(capsys, finished, "--out", out)[0] == cli.DONE
    assert report(capsys, finished, "--out", out)[0] == cli.DONE
    assert MARK in out.read_text()
    kept = (finished / "samples.jsonl").read_bytes()
    code, _, said = report(capsys, finished, "--out", finished / "samples.jsonl")
    assert code == cli.UNUSABLE
    assert said.startswith(f"error: --out: {finished / 'samples.jsonl'} is there already and is no report;")
    assert (finished / "samples.jsonl").read_bytes() == kept


def test_errors_name_field_value_and_remedy(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[list[Path | str], str]] = [
        ([tmp_path / "none"], f"RUN: {tmp_path / 'none'}: there is no such folder; give a run directory"),
        ([empty], f"RUN: {empty}: is no run (it holds neither metrics.jsonl nor config.yaml); give a run"),
        ([finished, finished], f"RUN: {finished} is given twice; give each run once"),
        ([finished, "--out", empty], f"--out: {empty} is a folder; give the name of a file in it"),
        ([finished, "--out", tmp_path / "a/b.html"], f"there is no folder {tmp_path / 'a'}; make it first"),
        ([finished] * (MOST_RUNS + 1), f"RUN: {MOST_RUNS + 1} runs are more than a page shows well"),
    ]
    for arguments, expected in cases:
        code, out, said = report(capsys, *arguments)
        assert (code, out) == (cli.UNUSABLE, "")
        assert expected in said


def test_a_disk_that_refuses_is_told(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, said = report(capsys, finished, "--out", tmp_path / "page.html")
    assert code == cli.UNUSABLE
    assert "page.html cannot be written: No space left on device; give another place with --out" in said
    assert list(tmp_path.iterdir()) == []
