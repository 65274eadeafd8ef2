"""No hint names a field that does not exist: of this project by its schema, of TRL by its source."""

import ast
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from rlreason.config.fields import ANY_NAME, walk
from rlreason.doctor import RULES, Doctor, Facts
from rlreason.doctor.learning import why_silent
from rlreason.doctor.watch import PAGE

ROOT = Path(__file__).parents[2]
FIELDS = {key for key, _ in walk()}
QUOTED = re.compile(r"`([^`]+)`")
# Not fields, but things to be found elsewhere: a reward, and the data that TRL's trainer takes.
OTHER = {"repetition"}
TRL_ARGUMENTS = {"train_dataset"}


def silent_hints(*, trl: bool) -> list[str]:
    """The hints for groups without signal, which depend on what was seen."""
    found = []
    for line in (
        {"truncated": 0.9, "reward": 0.5},
        {"reward": None},
        {"reward": 0.1, "accuracy": 0.0},
        {"reward": 1.0, "accuracy": 0.5},
    ):
        doctor = Doctor(Facts(trl=trl), rules=())
        doctor.step({"step": 1, **line})
        found += why_silent(doctor.history, 1)[1:]
    return found


def exists(field: str) -> bool:
    parts = field.split(".")
    if parts[0] == "rewards" and len(parts) == 3:
        parts[1] = ANY_NAME
    return ".".join(parts) in FIELDS


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_hints_name_fields_of_the_config(stage: str) -> None:
    hints = [hint for rule in RULES for hint in rule.hints] + silent_hints(trl=False)
    doctor = Doctor(Facts(stage))
    fields = [field for hint in doctor._spelled(hints) for field in QUOTED.findall(hint)]
    assert len(fields) > 30
    assert {field for field in fields if not exists(field)} <= OTHER


def test_each_hint_begins_with_its_field() -> None:
    hints = [hint for rule in RULES for hint in (*rule.hints, *rule.trl)] + silent_hints(trl=False)
    assert not [hint for hint in hints if not hint.startswith("`")]


def test_hints_for_trl_name_arguments_of_its_trainer() -> None:
    arguments = {*TRL_ARGUMENTS}
    for package, path in (
        ("trl", "trl/trainer/grpo_config.py"),
        ("trl", "trl/trainer/base_config.py"),
        ("transformers", "transformers/training_args.py"),
    ):
        source = Path(str(distribution(package).locate_file(path)))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                arguments.add(node.target.id)
    hints = [hint for rule in RULES for hint in rule.trl] + silent_hints(trl=True)
    assert {field for hint in hints for field in QUOTED.findall(hint)} <= arguments


def test_rules_have_names_of_their_own_and_a_section_in_the_docs() -> None:
    rule_names = [rule.name for rule in RULES]
    assert len(set(rule_names)) == len(rule_names)
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert [name for name in rule_names if f"\n## {name}\n" not in page] == []


def test_each_rule_reads_well() -> None:
    for rule in RULES:
        assert not rule.means.endswith("."), rule.name
        assert not rule.title.endswith("."), rule.name
