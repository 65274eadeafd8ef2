"""The command line. A config is checked before torch is imported: a typo costs a second, not twenty."""

import argparse
import difflib
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rlreason.config import RunConfig, dump, field_table, help_text, json_schema, load
from rlreason.errors import UserError
from rlreason.report.text import harmless
from rlreason.runs import check_startable
from rlreason.runs.directory import METRICS
from rlreason.runs.lock import LOCK
from rlreason.runs.resume import CONFIG
from rlreason.telemetry import no_telemetry

DONE, FOUND, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all well; `check` or `doctor` found something; the user has something to change; Ctrl-C."""

_HELP = """\
usage: python -m rlreason COMMAND ...

  train CONFIG [key.sub=value ...]                    train as CONFIG says
  check CONFIG [--rewards-only] [key.sub=value ...]   what to know before a run of CONFIG
  eval MODEL_OR_RUN --config CONFIG [key.sub=value ...]
                                                      measure a model or run as CONFIG says
  rescore RUN --config CONFIG [key.sub=value ...]     apply other rewards to a run's completions
  doctor RUN                                          say in words what is wrong with a run
  report RUN [RUN ...] [--out FILE]                   write an HTML page about one run or several
  traces CONFIG --out FILE [--model MODEL_OR_RUN] [key.sub=value ...]
                                                      write solutions for stage sft to imitate
  fields                                              list every field of a config
  schema                                              print the JSON Schema of configs

python -m rlreason COMMAND --help tells more.
"""


def main(argv: Sequence[str]) -> int:
    """Run `python -m rlreason` with the arguments after the program's name; return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        return _print(_HELP)
    command, rest = argv[0], argv[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"give one of {', '.join(_COMMANDS)}"
        return _refuse(f"there is no command {command!r}; {remedy}")
    return _COMMANDS[command](rest)


def main_train(argv: Sequence[str], program: str = "train.py") -> int:
    """Run `train.py` with the arguments after the program's name; return the exit code."""
    if "-h" in argv or "--help" in argv:
        return _print(help_text(program))
    if "--schema" in argv:
        return _print_schema()
    if not argv:
        return _refuse(f"which config? Give one, for example: {program} configs/quickstart.yaml")

    def train() -> None:
        config = load(argv[0], argv[1:])
        _refuse_moved(argv, config)
        check_startable(Path(config.output_dir) / config.name, dump(config))
        no_telemetry()
        from rlreason.stages import run

        run(config)

    return _guarded(train)


def main_eval(argv: Sequence[str]) -> int:
    """Run `python -m rlreason eval` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason eval",
        description="Measure a model on held-out questions, with the prompts and rewards of a config.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL_OR_RUN", help="run directory, model folder, hub name, or embedded"
    )
    parser.add_argument("--config", help="YAML file; without it the config.yaml of the run directory is used")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to single fields")
    try:
        arguments = parser.parse_intermixed_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)

    def evaluate() -> None:
        config = _config_for(arguments.model, arguments.config, arguments.overrides)
        no_telemetry()
        from rlreason.evaluation.command import evaluate_command

        evaluate_command(arguments.model, config)

    return _guarded(evaluate)


def main_check(argv: Sequence[str]) -> int:
    """Run `python -m rlreason check` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason check",
        description="The preflight of a run. Its rewards, without a model: can every gold answer be read, "
        "does it earn 1, and is nothing paid that deserves nothing? Then its model: tokens and their mask, "
        "lengths, memory, time and cost. The exit code is 1 for an error in either, and 0 for warnings.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument(
        "--questions", type=_count, default=20, metavar="N", help="questions to attack (%(default)s)"
    )
    parser.add_argument(
        "--rewards-only", action="store_true", help="only what needs no model, in seconds and without torch"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to single fields")
    try:
        arguments = parser.parse_intermixed_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)
    found = []

    def check_run() -> None:
        config = load(arguments.config, arguments.overrides)
        no_telemetry()
        from rlreason.check import check, show
        from rlreason.report.page import printed

        report = check(config, questions=arguments.questions)
        found.append(not report.sound)
        _print(printed(lambda console: show(report, console)))
        if arguments.rewards_only:
            return
        from rlreason import preflight

        whole = preflight.examine(config, tell=lambda text: print(text, file=sys.stderr))
        found.append(not whole.sound)
        _print(printed(lambda console: preflight.show(whole, console)))

    return _guarded(check_run) or (FOUND if any(found) else DONE)


def main_rescore(argv: Sequence[str]) -> int:
    """Run `python -m rlreason rescore` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason rescore",
        description="Score the completions that a run has saved by the rewards of another config, and show "
        "what changes. The run stays as it is.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--config", required=True, help="YAML file with the new rewards")
    parser.add_argument(
        "--out", metavar="FILE", help="new JSONL file (RUN/rescored.jsonl, or the next free one)"
    )
    parser.add_argument("--show", type=_count, default=5, metavar="N", help="changes to print (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to single fields")
    try:
        arguments = parser.parse_intermixed_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)

    def rescore_run() -> None:
        config = load(arguments.config, arguments.overrides)
        no_telemetry()
        from rlreason.report.page import printed
        from rlreason.rescore import out_path, rescore, show, write

        path = out_path(arguments.run, arguments.out)
        rescored, notes = rescore(arguments.run, config)
        write(rescored, path)
        _print(printed(lambda console: show(rescored, notes, console, examples=arguments.show)))
        _print(f"\nevery completion, before and now: {path}\n")

    return _guarded(rescore_run)


def main_doctor(argv: Sequence[str]) -> int:
    """Run `python -m rlreason doctor` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason doctor",
        description="Read the metrics of a run, finished or not, and say in words what is wrong, since when, "
        "what it usually means and what to try. If a warning stands at its end, the exit code is 1.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="run directory; or trainer_state.json of TRL, or its folder"
    )
    for name in ("accuracy", "format", "learned"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"TRL: the reward function that is the {name}")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)
    found = []

    def examine_run() -> None:
        from rlreason.doctor import Names, examine, read, show
        from rlreason.report.page import printed

        record = read(arguments.run, Names(arguments.accuracy, arguments.format, arguments.learned))
        doctor = examine(record)
        found.append(any(finding.level == "warning" for finding in doctor.standing()))
        _print(printed(lambda console: show(doctor, record, console)))

    return _guarded(examine_run) or (FOUND if any(found) else DONE)


def main_report(argv: Sequence[str]) -> int:
    """Run `python -m rlreason report` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason report",
        description="Write one HTML file about one run, or about several side by side. It opens in a "
        "browser, offline. A run that is still going on, or was stopped, is fine.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directory")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="RUN/report.html; for several runs report.html in this folder",
    )
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)

    def write() -> None:
        from rlreason.html_report import report_command

        _print(f"report: {report_command(arguments.runs, arguments.out).text()}\n")

    return _guarded(write)


def main_traces(argv: Sequence[str]) -> int:
    """Run `python -m rlreason traces` with the arguments after the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlreason traces",
        description="Write worked solutions of training questions, for sft.traces to read: completions of a "
        "model that earn full marks of eval.reward in the asked form, or the derivations of the task.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file: questions, form, rewards, sampling")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="new JSONL file")
    parser.add_argument(
        "--model",
        metavar="MODEL_OR_RUN",
        help="run directory, model folder, hub name, or embedded (model.path)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("samples", "derivations"),
        help="completions of a model, or the task's own derivations in the shares of sft.styles "
        "(samples, if there is a --model or the config has a model.path)",
    )
    parser.add_argument("--questions", type=_count, metavar="N", help="training questions to ask (sft.size)")
    parser.add_argument("--samples", type=_count, metavar="N", help="completions of each question (8)")
    parser.add_argument(
        "--keep", type=_count, metavar="K", help="different completions of a question to keep, at most (1)"
    )
    parser.add_argument("--min-reward", metavar="X", type=_finite, help="least total of all rewards (none)")
    parser.add_argument(
        "--shortest",
        action="store_true",
        default=None,
        help="keep the shortest, not those of the highest total",
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to single fields")
    try:
        arguments = parser.parse_intermixed_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return int(stop.code or DONE)

    def write_traces() -> None:
        config = load(arguments.config, arguments.overrides)
        no_telemetry()
        from rlreason.traces import traces_command

        traces_command(config, arguments)

    return _guarded(write_traces)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; give 1 or more")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no number to compare with")
    return number


def _config_for(model: str, path: str | None, overrides: Sequence[str]) -> RunConfig:
    if path is not None:
        return load(path, overrides)
    of_run = Path(model, "config.yaml")
    if not of_run.is_file():
        raise UserError(f"{model}: is not a run directory (it holds no config.yaml); add --config CONFIG")
    return load(of_run, overrides)


def _refuse_moved(argv: Sequence[str], config: RunConfig) -> None:
    """Raise UserError where the config of a run is given that is not where the config says.

    One that was moved would begin anew in its old place; a copy would go on with the run it was copied from.
    """
    path = Path(argv[0])
    beside, named = path.parent.resolve(), (Path(config.output_dir) / config.name).resolve()
    is_run = path.name == CONFIG and any((beside / name).exists() for name in (METRICS, LOCK))
    chosen = any(text.startswith(("name=", "output_dir=")) for text in argv[1:])
    if is_run and beside != named and not chosen:
        raise UserError(
            f"{path} belongs to the run in {beside}, but its output_dir and name lead to {named}. To go on "
            f"with the run beside it add output_dir={shlex.quote(str(beside.parent))} "
            f"name={shlex.quote(beside.name)}; for a new run add name=..."
        )


def _guarded(work: Callable[[], None]) -> int:
    """Run `work` and return the exit code; what is not meant for the user keeps its traceback.

    SIGTERM ends it as Ctrl-C does, so that what is half-written is removed; a stage that trains has handlers
    of its own, which finish its step first.
    """
    before = None
    with suppress(ValueError):  # outside the main thread no signal is ever delivered
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        work()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return DONE


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _print_schema() -> int:
    return _print(json.dumps(json_schema(), indent=2) + "\n")


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `train.py --help | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _refuse(text: str) -> int:
    print(harmless(f"error: {text}"), file=sys.stderr)
    return UNUSABLE


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": lambda argv: main_train(argv, "python -m rlreason train"),
    "eval": main_eval,
    "check": main_check,
    "rescore": main_rescore,
    "doctor": main_doctor,
    "report": main_report,
    "traces": main_traces,
    "fields": lambda argv: _print(field_table()),
    "schema": lambda argv: _print_schema(),
}
