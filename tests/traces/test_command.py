"""The traces command: what is asked, what is written, what is refused, and that stage sft reads it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import lines
from tiny import EOS, tiny_model, tiny_tokenizer

import rlreason.rollout
from rlreason import cli
from rlreason.rollout import Request, Sampling, Told
from rlreason.tasks import load_traces
from rlreason.types import Rollout

TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}#{% endif %}"
OPENS = TEMPLATE.replace("#", "<think>{{ '\n' }}")
RIGHT = "<think>\n{0} + 1 = {1}\n</think>\n<answer>{1}</answer>"
WORDY = "<think>\nLet me see. {0} + 1 is {1}.\n</think>\n<answer>{1}</answer>"
WRONG = "<think>\n{0} + 1 = 0\n</think>\n<answer>0</answer>"
BARE = "{1}"
CUT = "<think>\n{0} + 1 = {1}\n</think>\n<answer>{1}</answer>|"  # the engine says that it was cut off
SCRIPT = [RIGHT, WRONG, BARE, CUT]


class ScriptedEngine:
    """Writes the texts of `script` for every question "N+1?"; `stop_at` is where Ctrl-C is pressed."""

    name = "scripted"

    def __init__(self, tokenizer: Any, script: Sequence[str], stop_at: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._script = script
        self._stop_at = stop_at
        self.asked: list[str] = []
        self.seeds: list[int] = []
        self.sampling: Sampling | None = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        self.sampling = sampling
        return [self._group(request) for request in requests]

    def _group(self, request: Request) -> list[Rollout]:
        if len(self.asked) == self._stop_at:
            raise KeyboardInterrupt
        prompt = self._tokenizer.decode(request.prompt_ids)
        question = prompt.split("[")[1].split("]")[0]
        self.asked.append(question)
        self.seeds += request.seeds
        number = int(question.removesuffix("+1?"))
        group = []
        for place in range(len(request.seeds)):
            text = self._script[place % len(self._script)].format(number, number + 1)
            whole = not text.endswith("|")
            text = text.rstrip("|").removeprefix("<think>\n" if prompt.endswith("<think>\n") else "")
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"] + [EOS] * whole
            group.append(Rollout(request.prompt_ids, ids, [0.0] * len(ids), "stop" if whole else "length"))
        return group

    def refresh(self) -> None:
        pass


class Workshop:
    """A folder with questions, a model and a config, and the command run in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        for name, numbers in (("train", range(6)), ("held_out", range(20, 23))):
            rows = [{"prompt": f"{n}+1?", "answer": str(n + 1), "level": n} for n in numbers]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(self, **changes: Any) -> Path:
        config = {
            "name": "test",
            "output_dir": str(self.folder / "runs"),
            "stage": "sft",
            "threads": 1,
            "model": {"path": str(self.folder / "model"), "precision": "float32"},
            "task": {
                "source": "file",
                "name": str(self.folder / "train.jsonl"),
                "eval_name": str(self.folder / "held_out.jsonl"),
            },
            "prompt": {"system": None},
            "rewards": {"accuracy": 1.0, "think_format": 0.5},
            "rollout": {"max_new_tokens": 128, "temperature": 0.7},
            "sft": {"traces": str(self.folder / "some.jsonl"), "size": 6, "batch_size": 2},
            **changes,
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def engine(self, script: Sequence[str] = SCRIPT, template: str = TEMPLATE, **more: Any) -> ScriptedEngine:
        tokenizer = tiny_tokenizer(template)
        model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
        model.save_pretrained(self.folder / "model")
        tokenizer.save_pretrained(self.folder / "model")
        engine = ScriptedEngine(tokenizer, script, **more)
        self._monkeypatch.setattr(
            rlreason.rollout, "build_engine", lambda policy, config: (engine, "scripted")
        )
        return engine

    def run(self, *arguments: str, out: str = "out.jsonl", **changes: Any) -> int:
        return cli.main(["traces", str(self.config(**changes)), "--out", str(self.folder / out), *arguments])

    def rows(self, out: str = "out.jsonl") -> list[dict[str, Any]]:
        return lines(self.folder / out)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_right_completions_in_the_form_are_written_with_where_they_come_from(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = shop.engine()
    assert shop.run("--samples", "4") == 0
    assert sorted(engine.asked) == [f"{n}+1?" for n in range(6)]  # and none of the held-out ones
    assert len(set(engine.seeds)) == 24
    assert engine.sampling == Sampling(128, 0.7)
    rows = {row["prompt"]: row for row in shop.rows()}
    assert rows["2+1?"] == {
        "prompt": "2+1?", "think": "2 + 1 = 3", "answer": "3", "gold": "3", "source": "samples",
        "model": str(shop.folder / "model"), "sample": 0, "task": str(shop.folder / "train.jsonl"), "seed": 0,
        "place": rows["2+1?"]["place"], "tokens": 46, "reward": 1.5,
        "scores": {"accuracy": 1.0, "think_format": 1.0}, "metadata": {"level": 2},
    }  # fmt: skip
    assert len(rows) == 6
    assert {row["place"] for row in rows.values()} == set(range(6))
    said = squeezed(capsys.readouterr().out)
    # Of 24 completions, 6 each are right, wrong, bare and cut off; the last ones are right and in the form.
    # What is kept has 45 characters, of which each is a token, and the end.
    for part in ("6 traces kept", "questions asked 6", "completions 24 4 a question, temperature 0.7",
                 "in the form 18 (75%)", "cut off 6 (25%)", "right 12 (50%)", "usable 6 (25%)", "different 6",
                 "kept 6 at most 1 a question", "never right 0 (0%)", "90%: 46", "An example"):  # fmt: skip
        assert part in said


def test_what_the_template_opens_belongs_to_the_reasoning(shop: Workshop) -> None:
    shop.engine(template=OPENS)
    assert shop.run("--samples", "4") == 0
    assert {row["think"] for row in shop.rows()} == {f"{n} + 1 = {n + 1}" for n in range(6)}


def test_how_many_and_which_are_kept(shop: Workshop) -> None:
    shop.engine([RIGHT, RIGHT, WORDY, WRONG])

    def thoughts(out: str, *arguments: str) -> list[int]:
        assert shop.run("--samples", "4", *arguments, out=out) == 0
        return [len(row["think"]) for row in shop.rows(out)]

    short, wordy = len("2 + 1 = 3"), len("Let me see. 2 + 1 is 3.")
    assert set(thoughts("one.jsonl")) == {short, wordy}  # as the seed draws
    assert thoughts("short.jsonl", "--shortest") == [short] * 6
    assert sorted(thoughts("two.jsonl", "--keep", "3")) == [short] * 6 + [wordy] * 6
    assert len(thoughts("some.jsonl", "--questions", "2")) == 2
    assert len(thoughts("paid.jsonl", "--min-reward", "1.5")) == 6
    assert shop.run("--min-reward", "1.6", out="none.jsonl") == 2


def test_the_same_command_gives_the_same_file(shop: Workshop) -> None:
    shop.engine([RIGHT, WORDY])
    assert shop.run(out="a.jsonl") == shop.run(out="b.jsonl") == 0
    # However the questions are cut into chunks.
    assert shop.run(out="c.jsonl", rollout={"max_new_tokens": 128, "max_sequences": 1}) == 0
    texts = [(shop.folder / f"{name}.jsonl").read_bytes() for name in "abc"]
    assert texts[0] == texts[1] == texts[2]


def test_ctrl_c_keeps_what_was_found(shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.engine(stop_at=2)
    chunks_of_one = {"max_new_tokens": 128, "max_sequences": 1}
    assert shop.run("--samples", "4", rollout=chunks_of_one) == 130
    assert len(shop.rows()) == 2
    said = capsys.readouterr().out
    assert "interrupted: 4 questions were not asked" in said
    assert "sft.traces=" in said


def test_nothing_right_is_said_and_nothing_is_written(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.engine([WRONG, CUT])
    assert shop.run("--samples", "2") == 2
    said = capsys.readouterr()
    assert "right, not usable 6 (100%)" in squeezed(said.out)
    assert "none of 12 completions can be imitated" in said.err
    assert not (shop.folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("--from", "derivations", "--keep", "2"), {}, "--keep: is for samples of a model"),
        (("--from", "derivations"), {}, "--from derivations: no derivations are written"),
        (("--from", "derivations"), {}, "; sample a model instead (--from samples)"),
        ((), {"model": {"scratch": {}}}, "--from derivations: no derivations are written"),  # the default
        (("--from", "samples"), {"model": {"scratch": {}}}, "--model: is not given"),
        (("--model", "/no/such"), {}, "'/no/such' is no local directory"),
        ((), {"prompt": {"system": None, "max_tokens": 2}}, "prompt.max_tokens=2: no training question fits"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    shop: Workshop, arguments: Any, changes: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.engine()
    assert shop.run(*arguments, **changes) == 2
    assert message in capsys.readouterr().err
    assert not (shop.folder / "out.jsonl").exists()


def test_a_file_is_never_overwritten_and_has_a_name_that_sft_reads(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = shop.engine()
    (shop.folder / "out.jsonl").write_text("precious")
    assert shop.run() == 2
    assert (shop.folder / "out.jsonl").read_text() == "precious"
    assert shop.run(out="traces.json") == 2
    assert shop.run(out="no/such.jsonl") == 2
    assert "must end in .jsonl" in (said := capsys.readouterr().err)
    assert "there already" in said
    assert "there is no folder" in said
    assert engine.asked == []


@pytest.mark.parametrize("argument", ["--keep=0", "--samples=x", "--min-reward=nan", "--sample=3"])
def test_arguments_out_of_bounds_are_refused(shop: Workshop, argument: str) -> None:
    assert shop.run(argument) == 2


def test_derivations_come_in_the_styles_of_the_config(shop: Workshop) -> None:
    task = {"name": "chain_sum", "params": {"min_terms": 2, "max_terms": 2}}
    sft = {"styles": {"guess": 0.25, "steps": 0.75}, "size": 8}
    assert shop.run("--from", "derivations", task=task, sft=sft) == 0
    rows = shop.rows()
    assert sorted(row["style"] for row in rows) == ["guess"] * 2 + ["steps"] * 6
    for row in rows:
        assert row["source"] == "derivations"
        assert row["reward"] == 1.5
        assert (f"= {row['gold']}" in row["think"]) == (row["style"] == "steps")


def test_a_learned_reward_that_no_run_has_made_is_left_out_and_that_is_said(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.engine([RIGHT])
    path = ["sft", "reward_model", "grpo"]
    assert shop.run("--samples", "1", rewards={"accuracy": 1.0, "learned": 0.5}, stage=path) == 0
    assert "rewards.learned is left out" in squeezed(capsys.readouterr().out)
    assert {row["reward"] for row in shop.rows()} == {1.0}


def test_stage_sft_imitates_the_file(shop: Workshop) -> None:
    shop.engine()
    assert shop.run("--samples", "4") == 0
    found = load_traces(shop.folder / "out.jsonl").found
    assert sorted(trace.think for trace in found) == [f"{n} + 1 = {n + 1}" for n in range(6)]
    assert cli.main(["train", str(shop.folder / "config.yaml"), f"sft.traces={shop.folder}/out.jsonl"]) == 0
    steps = lines(shop.folder / "runs" / "test" / "metrics.jsonl")
    assert (shop.folder / "runs" / "test" / "model" / "config.json").is_file()
    assert steps[-1]["step"] == 3  # six traces, two a step
