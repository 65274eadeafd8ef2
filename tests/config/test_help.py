"""The help, the JSON Schema and the resolved config all tell the same."""

import json

from rlreason.config import RunConfig, dump, field_help, help_text, json_schema
from rlreason.config.yaml_text import read_yaml


def test_every_field_has_help() -> None:
    for row in field_help():
        assert row.help, row.key
        assert row.type, row.key
        assert len(row.help) <= 100, row.key
        assert "pydantic" not in row.type


def test_rows_of_known_fields() -> None:
    rows = {row.key: row for row in field_help()}
    assert rows["name"][1:3] == ("text", "required")
    assert rows["grpo.group_size"][1:3] == ("whole number >= 1", "8")
    assert rows["grpo.optim.lr"][1:3] == ("number > 0", "1e-05")
    assert rows["grpo.loss"].type == "dr_grpo | grpo | dapo | bnpo | cispo"
    assert rows["grpo.dual_clip"][1:3] == ("number > 1 or null", "null")
    assert rows["model.lora"][1:3] == ("section or null", "null")
    assert rows["model.lora.targets"][1:3] == ("all-linear or list of text", "all-linear")
    assert rows["stage"].type == "list of pretrain | sft | reward_model | grpo | ppo"
    assert rows["rewards"].default == "{accuracy: {}}"
    assert rows["rewards.NAME.weight"][1:3] == ("number", "1")
    assert rows["eval.pass_at"][1:3] == ("list of whole number", "[1]")
    assert rows["rollout.top_p"].type == "number > 0, <= 1"


def test_help_lists_what_the_resolved_config_holds() -> None:
    config = RunConfig.model_validate(
        {"name": "a", "stage": "grpo", "task": {"name": "x"}, "model": {"lora": {}}}
    )
    listed = {row.key for row in field_help()}

    def check(values: dict, prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            assert key in listed or key.startswith(("rewards.accuracy", "task.params.", "sft.styles."))
            if isinstance(value, dict):
                check(value, f"{key}.")

    check(read_yaml(dump(config)), "")


def test_help_text_names_every_field_within_100_columns() -> None:
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= 100
    starts = {line.split()[0].rstrip(":") for line in lines if line.strip()}
    assert {row.key for row in field_help()} <= starts


def test_help_is_ascii_and_uses_the_program_name() -> None:
    text = help_text("python -m rlreason train")
    assert text.isascii()
    assert text.startswith("usage: python -m rlreason train CONFIG")


def test_json_schema_describes_the_short_forms() -> None:
    schema = json.loads(json.dumps(json_schema()))
    properties = schema["properties"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "stage", "task"}
    stages = ["pretrain", "sft", "reward_model", "grpo", "ppo"]
    assert {"type": "string", "enum": stages} in properties["stage"]["anyOf"]
    assert {"type": "string"} in properties["rewards"]["anyOf"]
    assert schema["$defs"]["GrpoConfig"]["properties"]["group_size"]["minimum"] == 1
    assert all("description" in field for field in properties.values())
