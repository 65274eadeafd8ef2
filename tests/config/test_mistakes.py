"""What is refused, and that it is said in plain words: the field, the value found, what to do."""

import re

import pytest

VALID = "name: a\nstage: grpo\ntask: {name: x}\n"
JARGON = re.compile(
    r"pydantic|input should|validation|extra inputs|permitted|NoneType|Tuple|literal_error|ctx|model_type",
    re.I,
)


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "a\\b", "/tmp/x", ".hidden", "", "a b", "~", "C:x", "x" * 101]
)
def test_run_name_cannot_leave_its_folder(refused, name: str) -> None:
    [mistake] = refused(f"name={name}")
    assert mistake.startswith("name: ")
    assert "folder" in mistake or "null" in mistake


@pytest.mark.parametrize("name", ["a", "run-1", "v1.2_b", "7"])
def test_plain_run_names(load_text, name: str) -> None:
    assert load_text(VALID, f"name={name}").name == name


@pytest.mark.parametrize("settings", [[], ["grpo.baseline=leave_one_out"], ["grpo.combine=gdpo"]])
def test_group_size_1_where_completions_are_compared_with_each_other(refused, settings: list[str]) -> None:
    [mistake] = refused("grpo.group_size=1", *settings)
    assert mistake.startswith("grpo.group_size: 1 leaves nothing to compare with for grpo.")
    assert "give 2 or more" in mistake


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        ("seed=-1", "seed: -1 is too small; give 0 or more"),
        ("rollout.temperature=0", "rollout.temperature: 0 is too small; give a number above 0"),
        ("rollout.top_p=1.5", "rollout.top_p: 1.5 is too large; give 1 or less"),
        ("rollout.min_p=1", "rollout.min_p: 1 is too large; give a number below 1"),
        ("grpo.steps=2.0", "grpo.steps: 2.0 is not a whole number; write 2"),
        ("grpo.steps=2.5", "grpo.steps: 2.5 is not a whole number; give one"),
        ("grpo.steps=true", "grpo.steps: true is not a whole number; give one"),
        ("grpo.steps=", "grpo.steps: null is not a whole number; give one"),
        ("grpo.optim.lr='1e-5'", "grpo.optim.lr: '1e-5' is text; remove the quotes"),
        ("grpo.optim.lr=fast", "grpo.optim.lr: 'fast' is not a number; give one"),
        ("grpo.optim.lr=.nan", "grpo.optim.lr: nan is not a finite number; give one"),
        ("grpo.optim.lr=.inf", "grpo.optim.lr: inf is not a finite number; give one"),
        ("grpo.share_prompt=1", "grpo.share_prompt: 1 is neither true nor false"),
        ("grpo.loss=drgrpo", "grpo.loss: 'drgrpo' is not known; did you mean dr_grpo?"),
        ("grpo.loss=7", "grpo.loss: 7 is not known; give one of dr_grpo, grpo, dapo, bnpo, cispo"),
        ("prompt.format=xml", "prompt.format: 'xml' is not known; give one of think_answer, think_text,"),
        ("stage=stf", "stage[0]: 'stf' is not known; did you mean sft?"),
        ("stage=[]", "stage: [] is empty; give at least one entry"),
        ("stage=[sft, sft]", "stage: a list cannot be used; name each stage once"),
        ("stage=3", "stage: 3 is not a list such as [a, b]; give one"),
        ("output_dir=", "output_dir: is empty; give some text"),
        ("grpo.kl=3", "grpo.kl: 3 is not a section; give keys as in {key: value}"),
        ("rewards={accuracy: much}", "rewards.accuracy: 'much' is not a weight; give a number"),
        ("rewards=[accuracy]", "rewards: a list is not a mapping such as {key: value}; give one"),
        ("rewards={}", "rewards: {} is empty; give at least one entry"),
        ("rewards.accuracy.clip=[1, 0]", "rewards.accuracy.clip: a list cannot be used; give two numbers"),
        ("rewards.accuracy.clip=[0]", "rewards.accuracy.clip: a list cannot be used; give two numbers"),
        ("rewards.accuracy.clip=[0, .inf]", "rewards.accuracy.clip: a list cannot be used; give two numbers"),
        ("rewards.accuracy.clip=1", "rewards.accuracy.clip: 1 cannot be used; give two numbers"),
        ("rewards.accuracy.seconds=0", "rewards.accuracy.seconds: 0 is too small; give a number above 0"),
        ("rewards.accuracy.max_errors=2", "rewards.accuracy.max_errors: 2 is too large; give 1 or less"),
        ("grpo.combine=gdop", "grpo.combine: 'gdop' is not known; did you mean gdpo?"),
        ("rewards={1: 2}", "rewards: the key 1 is not text; put it in quotes"),
        ("1=2", "1: there is no such field; known are name,"),
        ("model.lora.targets=[]", "model.lora.targets: [] cannot be used; give all-linear, or a list"),
        (
            "model.lora.targets=q_proj",
            "model.lora.targets: 'q_proj' cannot be used; give all-linear, or a list",
        ),
        ("eval.pass_at=[1, 0]", "eval.pass_at[1]: 0 is too small; give 1 or more"),
        ("sft.styles={guess: 0}", "sft.styles.guess: 0 is too small; give a number above 0"),
        ("task.params={a: !!binary aaaa}", "task.params.a: b'i\\xa6\\x9a' is no plain value"),
        ("grpo.group_sise=4", "grpo.group_sise: there is no such field; did you mean grpo.group_size?"),
        ("group_size=4", "group_size: there is no such field; did you mean grpo.group_size?"),
        ("modell.path=x", "modell: there is no such field; did you mean model?"),
        (
            "rewards.accuracy.wieght=2",
            "rewards.accuracy.wieght: there is no such field; did you mean rewards",
        ),
        ("log.qqq=1", "log.qqq: there is no such field; log takes sample_every, checkpoint_every"),
    ],
)
def test_single_fields(refused, override: str, beginning: str) -> None:
    [mistake] = refused(override)
    assert mistake.startswith(beginning), mistake
    assert not JARGON.search(mistake)


def test_required_fields(error_of) -> None:
    message = error_of("")
    assert "3 mistakes" in message
    for key in ("name: is missing", "stage: is missing", "task: is missing"):
        assert key in message
    assert "task.name: is missing; add it" in error_of("name: a\nstage: grpo\ntask: {}\n")


def test_text_field_in_a_file_wants_quotes(error_of) -> None:
    assert "name: 7 is not text; put it in quotes" in error_of("name: 7\nstage: grpo\ntask: {name: x}\n")
    assert "the key 1 is not text" in error_of(VALID + "1: 2\n")


# Each with the beginning of the one mistake that it makes.
DISAGREEMENTS = [
    (["rewards={accuracy: {gate: format}}"], "rewards.accuracy.gate: 'format' is not another reward"),
    (["rewards={accuracy: {gate: accuracy}}"], "rewards.accuracy.gate: 'accuracy' is not another reward"),
    (["rewards={accuracy: 0}"], "rewards: every weight is 0"),
    (
        ["rewards=reasoning_gym", "eval.reward=reasoning_gym", "stage=grpo", "task.source=file"],
        "rewards.reasoning_gym: is the verifier of a generated question",
    ),
    (["grpo.kl.reference=adapter_off"], "grpo.kl.reference: adapter_off needs an adapter"),
    # Its coef is 0.05 unless it is set.
    (["stage=ppo", "ppo.kl.reference=none"], "ppo.kl.reference: none leaves nothing to hold the policy to"),
    (
        ["grpo.kl.reference=none", "grpo.kl.coef=0.1"],
        "grpo.kl.reference: none leaves nothing to hold the policy to, but grpo.kl.coef is 0.1",
    ),
    (["model.path=hub/name", "model.scratch={}"], "model.path: 'hub/name' cannot be used with model.scratch"),
    (["model.lora={}", "model.scratch={}"], "model.lora: an adapter on a model that knows nothing"),
    (["model.revision=main"], "model.revision: 'main' belongs to a hub model"),
    (
        ["model.attention=flash_attention_2", "model.precision=float32"],
        "model.attention: flash_attention_2 computes in half precision only",
    ),
    (
        # 100 is no multiple of 2 * 8 = 16: heads of 12.5
        ["model.scratch.hidden_size=100", "model.scratch.heads=8"],
        "model.scratch.hidden_size: 100 cannot be cut into 8 heads of an even size; give a multiple of 16",
    ),
    (
        # 132 = 4 * 33 divides into whole heads, but rotary embeddings turn pairs
        ["model.scratch.hidden_size=132"],
        "model.scratch.hidden_size: 132 cannot be cut into 4 heads of an even size; give a multiple of 8",
    ),
    (
        ["model.scratch.kv_heads=3"],
        "model.scratch.kv_heads: 3 does not divide model.scratch.heads = 4; give one of 1, 2, 4",
    ),
    (
        # 256 + 256 = 512 > 511
        ["model.scratch.max_positions=511"],
        "model.scratch.max_positions: 511 is less than prompt.max_tokens + rollout.max_new_tokens = 512",
    ),
    (
        ["stage=grpo", "task.source=file", "task.params={a: 1}"],
        "task.params: is for task.source = reasoning_gym",
    ),
    (["task.columns.prompt=q"], "task.columns: is for task.source = file or dataset"),
    (["task.eval_name=q.csv"], "task.eval_name: is for task.source = file or dataset"),
    (["task.subset=main"], "task.subset: is for task.source = dataset"),
    (["task.split=test"], "task.split: is for task.source = dataset"),
    (["task.eval_split=test"], "task.eval_split: is for task.source = dataset"),
    (["task.source=file"], "sft.traces: derivations are written for generated questions only"),
    (["sft.traces=t.jsonl", "sft.styles={steps: 1}"], "sft.styles: is for sft.traces = derivations"),
    (["sft.styles={gues: 1}"], "sft.styles.gues: there is no such style; did you mean guess?"),
    (["sft.styles={guess: 0.6, steps: 0.3}"], "sft.styles: the shares sum to 0.9; make them sum to 1"),
    (
        ["grpo.loss=cispo", "grpo.ratio=sequence"],
        "grpo.ratio: sequence cannot be used with grpo.loss = cispo",
    ),
    (["grpo.loss=cispo", "grpo.dual_clip=3"], "grpo.dual_clip: 3 has no effect with grpo.loss = cispo"),
    (
        ["grpo.combine=gdpo", "grpo.advantage_scale=group"],
        "grpo.advantage_scale: group cannot be used with grpo.combine = gdpo",
    ),
    (
        ["grpo.combine=gdpo", "grpo.baseline=leave_one_out"],
        "grpo.baseline: leave_one_out cannot be used with grpo.combine = gdpo",
    ),
    (
        ["grpo.combine=gdpo", "grpo.kl.where=reward", "grpo.kl.coef=0.1"],
        "grpo.kl.where: reward cannot be used with grpo.combine = gdpo",
    ),
    (
        ["grpo.combine=gdpo", "grpo.kl.where=tokens", "grpo.kl.coef=0.1"],
        "grpo.kl.where: tokens cannot be used with grpo.combine = gdpo",
    ),
    (
        ["grpo.combine=gdpo", "grpo.baseline=greedy"],
        "grpo.baseline: greedy cannot be used with grpo.combine = gdpo",
    ),
    (
        ["grpo.baseline=batch", "grpo.advantage_scale=group"],
        "grpo.advantage_scale: group is the deviation about another mean than grpo.baseline = batch",
    ),
    (
        ["grpo.baseline=greedy", "grpo.kl.where=reward", "grpo.kl.coef=0.1"],
        "grpo.kl.where: reward takes the penalty from what a completion earns and not from",
    ),
    (
        ["grpo.baseline=greedy", "grpo.advantage_scale=batch"],
        "grpo.advantage_scale: batch is the deviation about another mean than grpo.baseline = greedy",
    ),
    (
        ["grpo.baseline=batch", "grpo.dynamic_sampling=1"],
        "grpo.dynamic_sampling: 1 has nothing to replace with grpo.baseline = batch",
    ),
    (
        ["grpo.kl={coef: 0.1, where: tokens}", "grpo.advantage_scale=group"],
        "grpo.advantage_scale: group cannot be used with grpo.kl.where = tokens",
    ),
    (
        ["grpo.down_sample=8"],
        "grpo.down_sample: 8 leaves nothing out of grpo.group_size = 8 completions; lower it, raise",
    ),
    (
        ["grpo.down_sample=4", "grpo.baseline=batch"],
        "grpo.down_sample: 4 cannot be used with grpo.baseline = batch",
    ),
    (
        ["grpo.down_sample=4", "grpo.combine=gdpo"],
        "grpo.down_sample: 4 cannot be used with grpo.combine = gdpo, which would normalise each reward",
    ),
    (
        ["grpo.down_sample=4", "grpo.kl={coef: 0.1, where: reward}"],
        "grpo.down_sample: 4 chooses by rewards, and grpo.kl.where = reward would take the penalty only",
    ),
    (["grpo.overlong_buffer=256"], "grpo.overlong_buffer: 256 is not below rollout.max_new_tokens = 256"),
    (
        ["grpo.prompts_per_step=12", "grpo.minibatches=5"],
        "grpo.minibatches: 5 does not divide the 12 groups of a step (prompts_per_step), and a group stays "
        "whole; give one of 1, 2, 3, 4, 6, 12",
    ),
    (
        ["stage=ppo", "ppo.prompts_per_step=1"],
        "ppo.prompts_per_step: 1, with ppo.group_size = 1, makes a step of one completion",
    ),
    (
        ["stage=ppo", "ppo.kl={coef: 0, target: 6}"],
        "ppo.kl.target: 6 is held by multiplying ppo.kl.coef, which is 0",
    ),
    (
        ["stage=ppo", "ppo.kl={target: 6, horizon: 63}", "ppo.group_size=8"],
        "ppo.kl.horizon: 63 is less than the 64 completions of a step",
    ),
    (
        ["stage=ppo", "ppo.steps=5", "ppo.critic.warmup_steps=5"],
        "ppo.critic.warmup_steps: 5 leaves none of ppo.steps = 5 to the policy",
    ),
    (
        ["stage=ppo", "ppo.critic={kind: shared, start: judge}"],
        "ppo.critic.start: 'judge' is for ppo.critic.kind = separate",
    ),
    (["stage=ppo", "rewards=learned"], "rewards.learned.args.model: is not given"),
    (
        ["stage=[reward_model, ppo]", "rewards={accuracy: 0, learned: 1}", "eval.reward=learned"],
        "reward_model.pairs: rollouts are ranked by the other rewards, and none but the learned one has",
    ),
    (["stage=[grpo, sft]"], "stage: [grpo, sft] would undo what it learned; write [sft, grpo]"),
    (
        ["stage=[pretrain, grpo]", "pretrain.text=[derivations, book.txt]"],
        "pretrain.text: derivations cannot be mixed with files",
    ),
    (
        ["stage=[pretrain, grpo]", "task.source=file", "task.name=questions.jsonl", "task.params={}"],
        "pretrain.text: derivations are written for generated questions only, but task.source is file",
    ),
    (
        ["stage=[pretrain, grpo]", "task={source: file, name: q.jsonl}", "pretrain.text=q.jsonl"],
        "pretrain.text: 'q.jsonl' holds the task's questions",
    ),
    (
        ["stage=pretrain", "model.attention=flash_attention_2"],
        "pretrain.batch_size: 8 packed sequences side by side are not kept apart",
    ),
    (
        ["model.scratch={tokens: bpe, tokenizer: embedded}"],
        "model.scratch.tokens: bpe is for a tokenizer that is made here, but model.scratch.tokenizer is",
    ),
    (["model.scratch={vocabulary: 500}"], "model.scratch.vocabulary: is for model.scratch.tokens = bpe"),
    (
        ["stage=[pretrain, grpo]", "model.scratch={max_positions: 512}", "pretrain.sequence_tokens=1024"],
        "pretrain.sequence_tokens: 1024 is more than model.scratch.max_positions = 512",
    ),
    (
        ["rewards=countdown"],
        "eval.reward: accuracy compares with the gold answer, which is not what countdown",
    ),
    (["eval.pass_at=[1, 4]"], "eval.pass_at: pass@4 needs at least 4 samples"),
    (["eval.pass_at=[1, 1]"], "eval.pass_at: [1, 1] names a number twice"),
    (["eval.samples=2", "eval.temperature=0"], "eval.samples: 2 greedy samples"),
]


@pytest.mark.parametrize(("overrides", "beginning"), DISAGREEMENTS, ids=lambda value: str(value)[:50])
def test_fields_that_disagree(refused, overrides: list[str], beginning: str) -> None:
    [mistake] = refused(*overrides)
    assert mistake.startswith(beginning), mistake


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.scratch.heads=8", "model.scratch.kv_heads=2"],
        ["model.scratch={hidden_size: 100, heads: 8, overrides: {head_dim: 16}}", "model.scratch.kv_heads=2"],
        ["model.lora={}", "grpo.kl.reference=adapter_off"],
        ["model.path=hub/name", "model.revision=main"],
        ["grpo.loss=cispo", "grpo.clip_high=5"],
        ["grpo.loss=dr_grpo", "grpo.advantage_scale=group"],
        ["grpo.overlong_buffer=255"],
        ["grpo.baseline=batch", "grpo.group_size=1", "grpo.advantage_scale=batch"],
        ["grpo.baseline=greedy", "grpo.group_size=1", "grpo.dynamic_sampling=2"],
        ["grpo.kl={coef: 0.1, where: tokens}", "grpo.advantage_scale=batch"],
        ["grpo.kl.where=tokens", "grpo.advantage_scale=group"],
        ["grpo.combine=gdpo", "grpo.kl.where=reward"],
        ["grpo.down_sample=7", "grpo.kl.where=reward"],
        ["grpo.down_sample=4", "grpo.baseline=leave_one_out", "grpo.kl={coef: 0.1, where: tokens}"],
        ["rewards={accuracy: {clip: [-1, 0.5], seconds: 0.1, max_errors: 0}}"],
        ["rewards={accuracy: {clip: null}}"],
        ["sft.styles={guess: 0.7, steps: 0.3}"],
        ["eval.samples=4", "eval.pass_at=[1, 2, 4]"],
        ["stage=grpo", "task.source=file", "task.eval_name=held_out.csv"],
        ["rewards={accuracy: {gate: think_format}, think_format: 0}"],
        ["stage=[reward_model, ppo]", "rewards={accuracy: 0, learned: 1}"],
        ["stage=ppo", "ppo.kl={target: 6, horizon: 64}", "ppo.group_size=8"],
        ["stage=ppo", "ppo.prompts_per_step=1", "ppo.group_size=2"],
    ],
    ids=str,
)
def test_fields_that_agree(load_text, overrides: list[str]) -> None:
    load_text("name: a\nstage: [sft, grpo]\ntask: {name: chain_sum}\n", *overrides)


def test_every_mistake_of_a_config_is_reported_at_once(error_of) -> None:
    message = error_of(
        """\
name: ../x
stage: grpo
task: {name: x, params: {1: 2}}
rewards: {accuracy: {gate: nope}}
grpo: {group_size: 1, minibatches: 5, loss: cispo, ratio: sequence, kl: {reference: adapter_off}}
eval: {pass_at: [1, 4], qestions: 100}
""",
        "seed=x",
        "threads",
    )
    beginnings = [
        "override 'threads': has no '='",
        "name: '../x'",
        "seed: 'x' is not a whole number",
        "task.params: the key 1",
        "grpo.group_size: 1",
        "eval.qestions: there is no such field; did you mean eval.questions?",
        "grpo.minibatches: 5 does not divide the 8 groups",
        "grpo.kl.reference: adapter_off",
        "rewards.accuracy.gate: 'nope'",
        "grpo.ratio: sequence",
        "eval.pass_at: pass@4",
    ]
    first, *lines = message.splitlines()
    assert first.endswith(f"{len(beginnings)} mistakes:")
    assert len(lines) == len(beginnings)
    for beginning in beginnings:
        assert sum(line.startswith(f"  {beginning}") for line in lines) == 1, beginning


def test_what_follows_from_a_wrong_field_is_not_reported(refused) -> None:
    # The 8 groups of the default could not be cut into 3, but how many there are to be is unknown.
    assert len(refused("grpo.prompts_per_step=nine", "grpo.minibatches=3")) == 1
    # The heads meant here are 6, which 96 fits; the default of 4 would ask for kv_heads to divide 4.
    assert len(refused("model.scratch.haeds=6", "model.scratch.kv_heads=3")) == 1
    assert len(refused("rewards={accuracy: {weight: 0, gate: x}, y: z}")) == 1


def test_missing_sections_do_not_hide_other_mistakes(error_of) -> None:
    message = error_of("eval: {pass_at: [1, 4]}\n")
    assert "4 mistakes" in message
    assert "eval.pass_at: pass@4" in message
