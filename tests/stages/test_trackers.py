"""Trackers get the numbers of a run, each step once, and their failures do not end it."""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from accelerate.utils import LoggerType
from micro import lines

from rlreason.config import RunConfig, load
from rlreason.errors import UserError
from rlreason.stages.trackers import Trackers

Train = Callable[..., Path]


class Fake(GeneralTracker):
    """Keeps what it is sent, and fails where a test asks it to."""

    name = "fake"
    requires_logging_directory = False
    runs: ClassVar[list["Fake"]] = []
    fails: ClassVar[dict[str, int]] = {}

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options = project, options
        self.config: dict[str, Any] | None = None
        self.sent: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = 0
        Fake.runs.append(self)

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        self._maybe_fail("start", 0)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._maybe_fail("log", step or 0)
        self.sent.append((step, values))

    def finish(self) -> None:
        self.finished += 1
        self._maybe_fail("finish", 0)

    def _maybe_fail(self, what: str, step: int) -> None:
        if what in Fake.fails and step >= Fake.fails[what]:
            raise ConnectionError(f"no route to the tracker in {what}")

    def steps(self, key: str) -> list[int | None]:
        return [step for step, values in self.sent if key in values]


@pytest.fixture(autouse=True)
def fake() -> Iterator[type[Fake]]:
    register_tracker_class(Fake)
    Fake.runs, Fake.fails = [], {}
    yield Fake
    LOGGER_TYPE_TO_CLASS.pop("fake")


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder: (step, value) of every scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_what_the_metrics_say(train: Train) -> None:
    run = train("log.trackers=tensorboard")
    written = lines(run / "metrics.jsonl")
    sft = [line for line in written if line["stage"] == "sft"]
    grpo = [line for line in written if line["stage"] == "grpo"]
    assert [line["step"] for line in sft] == [1, 2]  # 8 traces, 4 at a time
    read = events(run / "tensorboard")
    # Steps count on: the first of grpo is the third of the run. TensorBoard keeps float32.
    assert [step for step, _ in read["grpo/reward"]] == [3, 4, 5, 6]
    for key in ("reward", "entropy", "length"):
        assert [v for _, v in read[f"grpo/{key}"]] == pytest.approx([line[key] for line in grpo], rel=1e-6)
    assert [v for _, v in read["sft/loss"]] == pytest.approx([line["loss"] for line in sft], rel=1e-6)
    assert len(read["grpo/time/total"]) == 4
    saved = json.loads((run / "eval.json").read_text())
    assert [(step, v) for step, v in read["eval/tokens"]] == [
        (2, pytest.approx(saved["before"]["tokens"], rel=1e-6)),
        (6, pytest.approx(saved["after"]["tokens"], rel=1e-6)),
    ]


def test_tensorboard_gets_no_completion_unless_asked(train: Train) -> None:
    every = "log.sample_every=1"
    for name, override, expected in (
        ("quiet", "log.track_samples=false", 0),
        ("told", "log.track_samples=true", 4),
    ):
        run = train(every, override, "log.trackers=tensorboard", name=name)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
        found.Reload()
        tags = [tag for tag in found.Tags()["tensors"] if "sample" in tag]
        assert sum(len(found.Tensors(tag)) for tag in tags) == expected
        questions = {sample["question"] for sample in lines(run / "samples.jsonl")}
        raw = b"".join(path.read_bytes() for path in (run / "tensorboard").rglob("events*"))
        assert any(question.encode() in raw for question in questions) == (expected > 0)


def test_a_tracker_gets_numbers_and_the_resolved_config_alone(train: Train) -> None:
    run = train("log.trackers=[fake]", "log.project=sums", "log.sample_every=1")
    (sent,) = Fake.runs
    assert sent.project == "sums"
    assert sent.config is not None
    assert sent.config["grpo.optim.lr"] == 1e-3
    assert sent.config["stage"] == '["sft", "grpo"]'
    assert sent.config["model.lora"] == "null"
    assert all(isinstance(v, int | float) for _, values in sent.sent for v in values.values())
    assert sent.steps("grpo/reward") == [3, 4, 5, 6]
    assert sent.finished == 1
    assert (run / "eval.json").is_file()


def test_no_tracker_is_started_unless_one_is_named(train: Train) -> None:
    run = train()
    assert Fake.runs == []
    assert not (run / "trackers.json").exists()
    assert not (run / "tensorboard").exists()


@pytest.mark.parametrize("what", ["log", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_the_run_ends_well(
    train: Train, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    Fake.fails = {what: 4 if what == "log" else 0}
    run = train("log.trackers=[fake, tensorboard]")
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("fake failed (no route to the tracker") == 1
    assert "is switched off" in out
    assert json.loads((run / "eval.json").read_text())["after"]["n"] == 6
    if what == "log":
        assert Fake.runs[0].steps("grpo/reward") == [3]
        assert Fake.runs[0].finished == 0
    # The other one has all of it.
    assert [step for step, _ in events(run / "tensorboard")["grpo/reward"]] == [3, 4, 5, 6]


def test_a_tracker_that_cannot_start_is_refused_before_anything_is_trained(
    train: Train, tmp_path: Path
) -> None:
    Fake.fails = {"start": 0}
    with pytest.raises(UserError, match=r"log\.trackers: fake cannot start \(no route.*take fake out"):
        train("log.trackers=[fake]")
    assert not (tmp_path / "runs" / "micro" / "metrics.jsonl").exists()


def test_a_run_that_is_cut_off_sends_each_step_once(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after step 3, one step past the checkpoint: step 3 is computed again, and not sent again."""
    from rlreason.stages import loop

    whole = loop.record

    def record_then_die(context: Any, setup: Any, *rest: Any) -> None:
        whole(context, setup, *rest)
        if setup.step == 3:
            raise SystemExit("killed")

    trackers = "log.trackers=[fake, tensorboard]"
    monkeypatch.setattr(loop, "record", record_then_die)
    with pytest.raises(SystemExit):
        train(trackers)
    monkeypatch.setattr(loop, "record", whole)
    run = train(trackers)
    first, second = Fake.runs
    assert first.steps("grpo/reward") == [3, 4, 5]
    assert second.steps("grpo/reward") == [6]
    assert first.steps("eval/tokens") == [2]
    assert second.steps("eval/tokens") == [6]
    assert second.config is None  # it knows the config
    assert [step for step, _ in events(run / "tensorboard")["grpo/reward"]] == [3, 4, 5, 6]


def test_a_resumed_run_goes_on_without_a_tracker_that_is_gone(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlreason.stages import loop

    def die(*_: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", die)
        with pytest.raises(SystemExit):
            train("log.trackers=[fake]")
    Fake.fails = {"start": 0}
    run = train("log.trackers=[fake]")
    assert (run / "eval.json").is_file()
    assert "fake failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tensorbord",
            r"log\.trackers: 'tensorbord' is no tracker of accelerate; did you mean tensorboard\?",
        ),
        ("wandb", r"log\.trackers: wandb needs a package that is not installed; run pip install wandb"),
        ("comet_ml", r"run pip install comet-ml, or take comet_ml out of log\.trackers"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused_before_the_questions_are_loaded(
    train: Train, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    from accelerate import tracking

    running = importlib.import_module("rlreason.stages.run")
    monkeypatch.setattr(tracking, "_available_trackers", [])
    monkeypatch.setattr(running, "load_tasks", lambda *_, **__: pytest.fail("questions were loaded"))
    with pytest.raises(UserError, match=message):
        train(f"log.trackers=[{name}]")


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_the_run_is_told_by_name_and_goes_on_as_the_same_one(
    train: Train, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What accelerate hands to each package: a stand-in of its tracker takes the arguments."""
    from accelerate import tracking

    class StandIn(Fake):
        pass

    StandIn.name = name
    StandIn.info = type("Info", (), {"run_id": "1234"})  # of an mlflow run
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, StandIn)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType(name)])
    from rlreason.stages import loop

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            train(f"log.trackers={name}")
    run = train(f"log.trackers={name}")
    first, second = (one.options for one in Fake.runs)
    if name == "wandb":
        assert first["name"] == "micro"
        assert first["resume"] == "allow"
        assert Path(first["dir"]) == run
        assert first["id"] == second["id"]
    elif name == "trackio":
        assert first == second == {"name": "micro", "resume": "allow"}
    else:
        assert first == {"run_name": "micro"}
        assert second == {"run_name": "micro", "run_id": "1234"}


def test_one_name_or_several(write_config: Callable[..., Path]) -> None:
    path = write_config()
    assert load(path).log.trackers == ()
    assert load(path, ["log.trackers=wandb"]).log.trackers == ("wandb",)
    assert load(path, ["log.trackers=[wandb, mlflow]"]).log.trackers == ("wandb", "mlflow")


def started(root: Path, config: RunConfig) -> Trackers:
    root.mkdir(exist_ok=True)
    return Trackers.start(config, root, Accelerator(cpu=True), print)


@pytest.mark.parametrize(
    "state",
    [
        {"fake": {"metrics": None, "evaluation/before": "2", "sample": [1], "config": 1, "other": 5}},
        {"fake": {"metrics": True}},
        {"fake": 3},
        {"fake": None, "tensorboard": []},
    ],
)
def test_a_state_that_is_damaged_counts_as_not_written(
    write_config: Callable[..., Path], tmp_path: Path, state: Any
) -> None:
    (tmp_path / "trackers.json").write_text(json.dumps(state))
    trackers = started(tmp_path, load(write_config(), ["log.trackers=[fake]"]))
    trackers.metrics({"stage": "sft", "step": 1, "loss": 0.5})
    trackers.evaluation("before", {"accuracy": 0.5})
    trackers.sample("sft", 1, "text")
    (sent,) = Fake.runs
    assert sent.config is not None
    assert sent.steps("sft/loss") == sent.steps("eval/accuracy") == sent.steps("sft/sample") == [1]
    kept = json.loads((tmp_path / "trackers.json").read_text())["fake"]
    assert kept == {"config": True, "metrics": 1, "evaluation/before": 1, "sample": 1}


def test_lines_of_metrics_without_a_place_are_passed_over(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    written = [{"step": 3}, {"stage": "sft"}, {"stage": "sft", "step": 7}, {"stage": ["sft"], "step": "x"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    trackers = started(tmp_path, load(write_config(), ["log.trackers=[fake]"]))
    trackers.metrics({"stage": "grpo", "step": 1, "reward": 0.5})
    assert Fake.runs[0].steps("grpo/reward") == [8]


def test_the_evaluation_before_is_sent_beside_that_after_the_stage_ahead(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = load(write_config(), ["log.trackers=[fake]"])
    for _ in range(2):  # the second is the run that goes on: nothing is sent twice
        trackers = started(tmp_path, config)
        trackers.metrics({"stage": "sft", "step": 2, "loss": 0.5})
        trackers.evaluation("sft", {"accuracy": 0.25})
        trackers.evaluation("before", {"accuracy": 0.5})
    first, second = Fake.runs
    assert [(step, v["eval/accuracy"]) for step, v in first.sent if "eval/accuracy" in v] == [
        (2, 0.25),
        (2, 0.5),
    ]
    assert second.sent == []
