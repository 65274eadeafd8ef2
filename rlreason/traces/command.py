"""The arguments of the command: what they default to, what does not go together; and writing the file."""

import sys
from argparse import Namespace
from pathlib import Path

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.report.page import printed
from rlreason.report.terminal import View
from rlreason.runs.jsonl import check_new, write_new
from rlreason.traces.make import Options, make_traces, record
from rlreason.traces.show import show

_OF_SAMPLES = ("model", "samples", "keep", "shortest")


def traces_command(config: RunConfig, arguments: Namespace) -> None:
    """Make traces as the arguments of the command line say, write and show them.

    Raises UserError for arguments that do not go together and a file that cannot be written, before anything
    is sampled, and where no trace was found. Raises KeyboardInterrupt after an interrupt, with what was found
    written.
    """
    options = options_of(config, arguments)
    path: Path = arguments.out
    if path.suffix != ".jsonl":
        raise UserError(f"--out: {path} must end in .jsonl, by which sft.traces knows what it is; rename it")
    check_new(path, field="--out")
    with View() as view:
        made = make_traces(config, options, view.note)
    if made.kept:  # before anything is shown: a report may be piped to what ends early
        write_new(path, (record(config, made, one) for one in made.kept), field="--out")
    sys.stdout.write(printed(lambda console: show(made, config, options, console)))
    if made.kept:
        print(f"\nwritten: {path}; imitate it with stage sft and sft.traces={path}\n", flush=True)
    if made.interrupted:
        raise KeyboardInterrupt
    if not made.kept:
        raise UserError(
            f"--out: nothing was written, for none of {made.sampled} completions can be imitated; take more "
            "--samples or --questions, easier questions, a lower --min-reward, or a model that knows the form"
        )


def options_of(config: RunConfig, arguments: Namespace) -> Options:
    """The options with their defaults filled in. Raises UserError where they do not go together."""
    given = [name for name in _OF_SAMPLES if getattr(arguments, name) is not None]
    source = arguments.source
    if source is None:
        source = "samples" if arguments.model or "path" in config.model.model_fields_set else "derivations"
    if source == "derivations" and given:
        raise UserError(f"--{given[0]}: is for samples of a model; add --from samples, or remove it")
    if source == "samples" and arguments.model is None and config.model.scratch is not None:
        raise UserError(
            "--model: is not given, and the model of the config is made from nothing (model.scratch); give a "
            "run or a model, or --from derivations"
        )
    return Options(
        source,
        arguments.model,
        arguments.questions,
        arguments.samples or 8,
        arguments.keep or 1,
        arguments.min_reward,
        shortest=bool(arguments.shortest),
    )
