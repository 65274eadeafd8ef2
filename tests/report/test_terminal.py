"""The view: a live panel in a terminal, lines of at most 110 columns elsewhere."""

import io
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from rlreason.report import Plan, View

METRICS: dict[str, Any] = {
    "stage": "grpo",
    "step": 3,
    "steps": 60,
    "reward": 0.431,
    "accuracy": 0.412,
    "format": 0.981,
    "length": 38.2,
    "truncated": 0.016,
    "informative": 0.625,
    "kl": 0.0013,
    "entropy": 0.531,
    "loss": -0.0021,
    "grad_norm": 0.83,
    "lr": 1e-5,
    "clipped": 0.004,
    "sampler_gap": 0.0021,
    "tokens": 2400,
    "time": {
        "sample": 6.0,
        "score": 0.02,
        "update": 4.0,
        "total": 10.0,
        "tokens_per_s": 312.4,
        "left": 570.0,
    },
}
HOSTILE = "\x1b[31m[bold red]\x9b2J\r\u202e<think>[/]</think>"
BEFORE = {"accuracy": 0.2134, "ci95": [0.17, 0.261], "n": 256, "samples": 2}
AFTER = {"accuracy": 0.5331, "ci95": [0.48, 0.58], "n": 256, "samples": 2}
GAIN = {"value": 0.32, "ci95": [0.261, 0.38], "n": 256}


def plain_console(encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    return Console(file=io.TextIOWrapper(raw, encoding=encoding), width=80), raw


def live_console(width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width, color_system="truecolor"), out


def text_of(raw: io.BytesIO, encoding: str = "utf-8") -> str:
    return raw.getvalue().decode(encoding)


def exercise(view: View) -> None:
    """Call everything a run calls, with hostile text wherever text comes from outside."""
    with view:
        view.plan(Plan(HOSTILE, [("model", HOSTILE), ("task", "chain_sum")], loss="r - mean(r)"))
        view.stage(HOSTILE)
        view.note(HOSTILE)
        view.step({})
        view.step(METRICS)
        view.step(dict.fromkeys(METRICS))
        view.step(METRICS | {"step": 4, "loss": math.nan, "grad_norm": math.inf})
        view.sample(HOSTILE, HOSTILE, {HOSTILE: (None, HOSTILE), "accuracy": (1.0, "")}, -0.5)
        view.evaluation(HOSTILE, BEFORE | {HOSTILE: 0.5, "pass_at": {"1": 0.2, HOSTILE: 0.3}})
        view.final(BEFORE, AFTER, GAIN, [HOSTILE], stage="\x1b[31mGRPO")


def escapes(text: str) -> Iterator[str]:
    yield from re.findall(r"\x1b\[[0-9;?]*[A-Za-z]", text)


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_live_output_holds_no_escape_of_a_completion(width: int) -> None:
    console, out = live_console(width)
    exercise(View(console=console))
    text = out.getvalue()
    # rich colours with 24-bit or palette codes inside one sequence; a bare 31 would be the completion's.
    assert "\x1b[31m" not in text
    assert "␛[31m[bold red]" in text.replace("\n", "")
    assert not set("\x9b\x07\u202e") & set(text)
    # What is left of escapes is rich's own: colours, cursor movement, line erasure, cursor visibility.
    assert all(code[-1] in "mAKlh" for code in escapes(text))
    assert text.count("\x1b") == len(list(escapes(text)))


def test_plain_output_holds_no_escape_at_all() -> None:
    console, raw = plain_console()
    exercise(View(console=console))
    text = text_of(raw)
    assert "␛[31m[bold red]" in text
    assert not set("\x1b\x9b\r\u202e") & set(text)
    assert max(len(line) for line in text.splitlines()) <= 110


def test_a_path_stays_in_one_piece_where_lines_are_wrapped() -> None:
    console, raw = plain_console()
    path = "/" + "/".join(["a-long-directory"] * 8)
    View(console=console).note(f"the step was saved to {path} before it was damaged")
    assert path in text_of(raw)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_old_encoding_loses_no_line(encoding: str) -> None:
    console, raw = plain_console(encoding)
    View(console=console).sample("算?", "<answer>算</answer>", {"accuracy": (0.0, "x")}, 0.0)
    assert r"<answer>\u7b97</answer>" in text_of(raw, encoding)


def test_the_completion_is_coloured_by_part() -> None:
    console, out = live_console()
    View(console=console).sample("q", "<think>a</think><answer>14</answer>", {}, None)
    # 1;32: bold green, and nothing else on the panel is.
    assert re.findall(r"\x1b\[1;32m(.*?)\x1b", out.getvalue()) == ["14"]


@pytest.mark.parametrize("live", [True, False])
def test_a_long_completion_says_what_is_left_out(live: bool) -> None:
    # 3,000 characters, of which 1,200 are shown: 800 from the beginning and 400 from the end.
    console, out = live_console() if live else plain_console()
    View(console=console).sample("q", "a" * 2000 + "b" * 1000, {}, 0.0)
    shown = text_of(out) if isinstance(out, io.BytesIO) else Text.from_ansi(out.getvalue()).plain
    shown = re.sub(r"[\n│|]|\s{2,}", " ", shown)
    assert "[… 1,800 characters]" in re.sub(r"\s+", " ", shown)
    assert shown.replace("characters", "").count("b") == 400


def test_step_lines_are_aligned_and_narrow() -> None:
    console, raw = plain_console()
    view = View(console=console)
    view.stage("grpo")
    for step in range(1, 61):
        clocks = METRICS["time"] | {"left": 60.0 * step}
        view.step(METRICS | {"step": step, "reward": -step / 7, "time": clocks})
    view.close()
    lines = text_of(raw).splitlines()
    rows = [line for line in lines if line.startswith("grpo")]
    headers = [line for line in lines if line.startswith("step")]
    assert len(rows) == 60
    assert len(headers) == 3  # every twenty lines
    assert len({len(line) for line in rows + headers}) == 1
    assert len(rows[0]) <= 110
    # Each number ends where its heading ends.
    for heading, number in [("accuracy", "41.2%"), ("inform.", "62.5%"), ("tokens/s", "312")]:
        assert headers[0].index(heading) + len(heading) == rows[0].index(number) + len(number)
    assert lines[-1] == "  time: sample 60%, update 40%"  # 6 and 4 of 10.02 s; the 0.2% is not shown


def test_every_step_is_one_line_even_where_metrics_are_missing() -> None:
    console, raw = plain_console()
    view = View(console=console)
    view.stage("sft")
    view.step({"stage": "sft", "step": 1, "steps": 2, "loss": 2.0, "kl": None})
    view.step({"stage": "sft", "step": 2, "steps": 2, "loss": None, "kl": 0.5})
    assert [line.split() for line in text_of(raw).splitlines() if line][1:] == [
        ["step", "loss"],
        ["sft", "1/2", "2.000"],
        ["step", "KL", "loss"],
        ["sft", "2/2", "0.500", "-"],
    ]


def test_long_stage_names_drop_columns_rather_than_the_limit() -> None:
    console, raw = plain_console()
    View(console=console).step(METRICS | {"stage": "reward_model_of_a_very_long_name", "steps": 1_000_000})
    lines = text_of(raw).splitlines()
    assert max(len(line) for line in lines) <= 110
    assert lines[-1].endswith("9:30")  # 570 s left


def test_the_live_panel_shows_progress_numbers_trends_and_time() -> None:
    now = [0.0]
    console, out = live_console()
    view = View(console=console, clock=lambda: now[0])
    view.stage("GRPO")
    view.step(METRICS | {"step": 2, "accuracy": 0.2})
    now[0] = 75.0
    view.step(METRICS)
    last = Text.from_ansi(out.getvalue().split("step 3 of 60")[-1]).plain
    assert re.search(r"accuracy +41\.2% +▁▇ +20\.0% … 41\.2%", last)
    assert re.search(r"rate +1\.0e-05", last)
    assert "sample 60%" in last
    assert "score" not in last
    assert "312 tokens/s · 10.0 s a step · 1:15 gone · 9:30 left" in last
    view.close()


def test_a_stage_without_rewards_shows_its_loss_as_a_trend() -> None:
    console, out = live_console()
    with View(console=console) as view:
        view.stage("cold start")
        for step, loss in enumerate([2.0, 1.0], 1):
            view.step({"stage": "sft", "step": step, "steps": 2, "loss": loss})
    assert re.search(r"loss +1\.000 +▇▁ +1\.000 … 2\.000", Text.from_ansi(out.getvalue()).plain)


def test_the_terminal_is_given_back_after_an_error() -> None:
    console, out = live_console()
    view = View(console=console)

    def interrupted() -> None:
        with view:
            view.stage("GRPO")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = out.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again
    view.close()


def test_final_lines_are_plain_and_last() -> None:
    for console, out in (plain_console(), live_console(60)):
        view = View(console=console)
        view.stage("GRPO")
        view.final(BEFORE, AFTER, GAIN, ["model: runs/quickstart/model"])
        text = text_of(out) if isinstance(out, io.BytesIO) else out.getvalue()
        assert text.splitlines()[-4:] == [
            "model: runs/quickstart/model",
            "held-out accuracy before GRPO: 21.3% [17.0, 26.1] (n=256 questions, 2 samples each)",
            "held-out accuracy after GRPO: 53.3% [48.0, 58.0] (n=256 questions, 2 samples each)",
            "gain: +32.0 points, 95% interval [26.1, 38.0]",
        ]


@pytest.mark.parametrize(
    ("value", "interval", "line"),
    [
        (0.012, [-0.03, 0.054], "gain: +1.2 points, 95% interval [-3.0, 5.4] (holds 0: no gain is shown)"),
        (0.012, [-0.0001, 0.02], "gain: +1.2 points, 95% interval [0.0, 2.0] (holds 0: no gain is shown)"),
        (-0.05, [-0.08, -0.02], "gain: -5.0 points, 95% interval [-8.0, -2.0] (below 0: it got worse)"),
        (None, None, "gain: not measured"),
    ],
)
def test_a_gain_that_is_none_is_called_so(
    value: float | None, interval: list[float] | None, line: str
) -> None:
    console, raw = plain_console()
    one = {"accuracy": 0.5, "ci95": None, "n": 1, "samples": 1}
    View(console=console).final(one, one, {"value": value, "ci95": interval, "n": 1})
    lines = text_of(raw).splitlines()
    assert lines[-1] == line
    assert lines[-2] == "held-out accuracy after GRPO: 50.0% [no interval] (n=1 question, 1 sample each)"


def test_evaluation_lists_what_else_was_measured() -> None:
    console, raw = plain_console()
    more = {"format": 0.95, "accuracy_given_format": None, "tokens": 33.14, "pass_at": {"1": 0.2, "2": 0.31}}
    View(console=console).evaluation("before", BEFORE | more)
    assert [line.strip() for line in text_of(raw).splitlines()] == [
        "before: 21.3% [17.0, 26.1] (n=256 questions, 2 samples each)",
        "format 95.0% · tokens 33.1 · pass@1 20.0% · pass@2 31.0%",
    ]


def test_failures_are_shown_from_the_first_one_on() -> None:
    console, raw = plain_console()
    view = View(console=console)
    for step, failed in enumerate((0.0, 0.125, 0.0)):
        view.step(METRICS | {"step": step, "failed": failed})
    view.close()
    rows = [line for line in text_of(raw).splitlines() if line.startswith(("grpo", "step"))]
    assert ["failed" in line for line in rows] == [False, False, True, False, False]
    assert ["12.5%" in line for line in rows] == [False, False, False, True, False]
    assert all(len(line) <= 110 for line in text_of(raw).splitlines())
    console, out = live_console()
    view = View(console=console)
    view.step(METRICS | {"failed": 0.0})
    assert "failed" not in out.getvalue()
    view.step(METRICS | {"failed": 0.125})
    view.close()
    assert "failed" in out.getvalue()
    assert "12.5%" in out.getvalue()


def test_an_evaluation_says_where_marking_failed() -> None:
    console, raw = plain_console()
    view = View(console=console)
    view.evaluation("before", BEFORE | {"failed": 0.0, "abstained": 0.0, "tokens": 3.0})
    view.evaluation("after", BEFORE | {"failed": 0.02, "abstained": 0.01, "accuracy": None, "ci95": None})
    assert [line.strip() for line in text_of(raw).splitlines()] == [
        "before: 21.3% [17.0, 26.1] (n=256 questions, 2 samples each)",
        "tokens 3.000",
        "after: - [no interval] (n=256 questions, 2 samples each)",
        "failed 2.0% · abstained 1.0%",
    ]


def test_a_log_file_is_no_terminal_even_where_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    view = View(Plan("p", [("model", "m")]))
    view.stage("GRPO")
    view.step(METRICS)
    view.close()
    assert "\x1b" not in capsys.readouterr().out
