"""Which room may import which. The plan of the house is in docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APART = ("rollout", "algorithms", "tasks", "runs")


def imported(path: Path) -> set[str]:
    """The full names of all modules that a file imports, inside functions too."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def arrows(folder: str) -> set[tuple[str, str]]:
    """Every (file, imported module) of a folder."""
    return {(str(path.relative_to(ROOT)), name) for path in files(folder) for name in imported(path)}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("room", APART)
def test_the_rooms_of_the_flow_do_not_import_each_other(room: str) -> None:
    others = [f"rlreason.{other}" for other in APART if other != room] + ["rewards"]
    crossed = [(f, name) for f, name in arrows(f"rlreason/{room}") if any(within(name, o) for o in others)]
    assert not crossed


def test_nothing_imports_stages_but_the_command_line_and_the_preflight() -> None:
    crossed = {
        file
        for file, name in arrows("rlreason")
        if within(name, "rlreason.stages") and not file.startswith(str(Path("rlreason", "stages")))
    }
    crossed = {file for file in crossed if not file.startswith(str(Path("rlreason", "preflight")))}
    assert crossed <= {str(Path("rlreason", "cli.py"))}


def test_nothing_imports_the_preflight_but_the_command_line() -> None:
    inside = str(Path("rlreason", "preflight"))
    crossed = {
        f for f, name in arrows("rlreason") if within(name, "rlreason.preflight") and not f.startswith(inside)
    }
    assert crossed <= {str(Path("rlreason", "cli.py"))}


def test_memory_knows_config_losses_policy_and_sampler_alone() -> None:
    rooms = ("memory", "config", "algorithms", "policy", "rollout", "errors")
    allowed = [f"rlreason.{name}" for name in rooms]
    ours = {(f, name) for f, name in arrows("rlreason/memory") if within(name, "rlreason")}
    assert not [(f, n) for f, n in ours if n != "rlreason" and not any(within(n, a) for a in allowed)]


def test_rewards_import_neither_torch_nor_rlreason() -> None:
    heavy = ("torch", "rlreason", "transformers", "trl", "numpy")
    crossed = {(f, name) for f, name in arrows("rewards") if any(within(name, h) for h in heavy)}
    # The reward model needs both, once it is asked for: `test_the_front_door_opens_without_torch`.
    assert {f for f, name in crossed} <= {str(Path("rewards", "learned.py"))}
    assert not [name for _, name in crossed if not (within(name, "torch") or within(name, "transformers"))]


def test_the_config_does_not_import_what_it_configures() -> None:
    allowed = ("rlreason.config", "rlreason.errors")
    heavy = ("torch", "transformers", "trl", "peft", "accelerate")
    for file, name in arrows("rlreason/config"):
        ours = within(name, "rlreason") and not any(within(name, a) for a in allowed) and name != "rlreason"
        assert not ours, (file, name)
        assert not any(within(name, h) for h in heavy), (file, name)


def test_the_nouns_import_no_room() -> None:
    for name in ("types", "errors", "seeds"):
        modules = imported(ROOT / "rlreason" / f"{name}.py")
        assert not [m for m in modules if within(m, "rlreason") or within(m, "torch")]


def test_the_policy_knows_of_no_stage_task_or_engine() -> None:
    rooms = ("stages", "tasks", "rollout", "evaluation", "report", "scoring")
    closed = [f"rlreason.{room}" for room in rooms]
    assert not [(f, name) for f, name in arrows("rlreason/policy") if any(within(name, c) for c in closed)]


def test_rewards_are_checked_and_completions_rescored_without_a_model() -> None:
    rooms = ("policy", "rollout", "algorithms", "evaluation", "stages")
    closed = [f"rlreason.{room}" for room in rooms] + ["torch", "transformers"]
    files_of_both = [*files("rlreason/check"), ROOT / "rlreason" / "rescore.py"]
    crossed = {(file.name, name) for file in files_of_both for name in imported(file)}
    assert not [(f, name) for f, name in crossed if any(within(name, c) for c in closed)]


def test_the_doctor_reads_files_and_numbers_and_knows_no_other_room() -> None:
    allowed = [f"rlreason.{name}" for name in ("doctor", "runs", "report", "errors")]
    ours = {(f, name) for f, name in arrows("rlreason/doctor") if within(name, "rlreason")}
    assert not [(f, n) for f, n in ours if n != "rlreason" and not any(within(n, a) for a in allowed)]
    heavy = ("torch", "transformers", "trl", "numpy", "rewards")
    assert not [(f, n) for f, n in arrows("rlreason/doctor") if any(within(n, h) for h in heavy)]


def test_the_html_report_reads_what_a_run_has_left_and_nothing_else() -> None:
    rooms = ("html_report", "doctor", "runs", "report", "errors")
    allowed = [f"rlreason.{name}" for name in rooms] + ["rewards.spec", "rewards.parse"]
    ours = {
        (f, name)
        for f, name in arrows("rlreason/html_report")
        if name.split(".")[0] in ("rlreason", "rewards")
    }
    bare = ("rlreason", "rewards")
    assert not [(f, n) for f, n in ours if n not in bare and not any(within(n, a) for a in allowed)]
    heavy = ("torch", "transformers", "trl", "numpy")
    assert not [(f, n) for f, n in arrows("rlreason/html_report") if any(within(n, h) for h in heavy)]


def test_the_front_door_opens_without_torch() -> None:
    code = "import sys; import rewards, rlreason.config, rlreason.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("folder", ["rewards", "rlreason"])
def test_no_file_is_longer_than_one_subject(folder: str) -> None:
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files(folder)}
    assert {file: length for file, length in lengths.items() if length > 400} == {}
