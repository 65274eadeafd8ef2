// The metrics of a stage as small charts that share one cursor.

const METRICS = [
  ["reward", "Reward", "Mean reward of a step's completions"],
  ["accuracy", "Accuracy in training", "Mean value of eval.reward, whatever its weight", "share"],
  ["format", "Format", "Share of completions in the asked form", "share"],
  ["length", "Length", "Mean tokens of a completion"],
  ["kl", "KL to the reference", "Nats a token: how far the model has moved"],
  ["entropy", "Entropy", "Of the next token, in nats"],
  ["informative", "Informative groups", "Share of groups whose completions did not all earn the same", "share"],
  ["grad_norm", "Gradient norm", "Before clipping"],
  ["sampler_gap", "Sampler gap", "Mean difference of the sampler's and the trainer's log-probability of a token"],
  ["truncated", "Cut off", "Share of completions that hit the limit of tokens", "share"],
  ["loss", "Loss", "Near 0 by construction in GRPO: watch the reward"],
  ["clipped", "Clipped", "Share of tokens held by a clip bound", "share"],
  ["value_loss", "Value loss", "Of the critic"],
  ["explained_variance", "Explained variance", "Of the returns, by the critic"],
  ["held_out_loss", "Held-out loss", "On documents that are not trained on"],
];
const MORE = [
  ["lr", "Learning rate", ""],
  ["derives", "Derives", "Share whose reasoning holds at least one equation", "share"],
  ["repeated", "Repeated", "Share of runs of 20 tokens that were there before in the completion", "share"],
  ["length_reward", "Length and reward", "Their correlation within groups"],
  ["failed", "Failed rewards", "Share of completions on which a reward failed", "share"],
  ["abstained", "Without reward", "Share of completions", "share"],
  ["tokens", "Tokens of a step", "All that were sampled"],
  ["time/tokens_per_s", "Tokens a second", "For each second of sampling"],
  ["time/total", "Seconds a step", "Without writing, saving and evaluating"],
];
const ODD = /^(time\/|reward\/)/;

function startCurves() {
  const section = byId("curves");
  const stages = [...new Set(RUNS.flatMap((run) => run.stages.map((stage) => stage.name)))];
  if (!stages.length) {
    replace(section, heading("Curves"), h("p", { class: "empty" }, "No step is there yet."));
    return;
  }
  const online = RUNS.find((run) => run.online)?.online;
  const first = online || stages[stages.length - 1];
  const body = h("div", {});
  const tabs = stages.length > 1 ? segmented("Stage", stages.map((name) => [name, stageTitle(name)]), first, (name) => showStage(body, name)) : null;
  replace(section, heading("Curves", null, tabs), RUNS.length > 1 ? legend() : null, body);
  showStage(body, first);
}

/** Which run has which colour; a click hides and shows it in all charts. */
function legend() {
  return h("div", { class: "legend", role: "group", "aria-label": "Runs shown" }, RUNS.map((run, place) => h("button", {
    type: "button", "aria-pressed": "true", on: { click: (event) => {
      if (state.hidden.has(place)) state.hidden.delete(place);
      else if (state.hidden.size < RUNS.length - 1) state.hidden.add(place);
      event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(place)));
      announce("hidden");
    } },
  }, dot(place), run.name)));
}

function showStage(body, name) {
  dropCharts(body);
  const runs = RUNS.map((run, place) => ({ run: place, stage: stageOf(run, name) })).filter((one) => one.stage);
  const online = name === "grpo" || name === "ppo";
  const evaluations = online ? RUNS.map((run, place) => ({ run: place, list: run.evaluations })).filter((one) => one.list.length > 1) : [];
  const steps = [...runs.flatMap(({ stage }) => stage.x), ...evaluations.flatMap(({ list }) => list.map((one) => one.step))];
  const range = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))];
  const has = (key) => runs.some(({ stage }) => stage.series[key]?.some((value) => value != null));
  const chart = ([key, title, help, kind], note) => makeChart({
    key, title, help, note, range, selects: online, share: kind === "share", format: kind === "share" ? percent : number,
    lines: runs.filter(({ stage }) => stage.series[key]).map(({ run, stage }) => ({ run, x: stage.x, y: stage.series[key] })),
  });
  const main = METRICS.filter(([key]) => has(key)).map((metric) => chart(metric));
  if (evaluations.length) main.splice(1, 0, heldOut(evaluations, range));
  const known = new Set([...METRICS, ...MORE].map(([key]) => key));
  const others = [...new Set(runs.flatMap(({ stage }) => Object.keys(stage.series)))].filter((key) => !known.has(key) && !ODD.test(key));
  const more = [...MORE.filter(([key]) => has(key)), ...others.map((key) => [key, key.replace(/_/g, " "), ""])];
  const rewards = [...new Set(runs.flatMap(({ stage }) => Object.keys(stage.series)))].filter((key) => key.startsWith("reward/"));
  const width = Math.max(...runs.map(({ stage }) => stage.bin));
  replace(body,
    width > 1 && h("p", { class: "aside" }, `A point is the mean of up to ${width} steps.`),
    online && h("p", { class: "aside" }, steps.length > 30 ? "Thin lines are single steps, thick ones the mean of neighbours. " : "",
      "Click a chart to see the completions of that step."),
    h("div", { class: "charts" }, main),
    rewards.length > 0 && h("h3", { id: "rewards" }, "Reward components"),
    rewards.length > 0 && h("div", { class: "charts" }, rewards.map((key) => chart([key, key.slice(7), ""], weighed(key.slice(7))))),
    more.length > 0 && h("details", { class: "more" }, h("summary", {}, `${count(more.length, "more metric")}`),
      h("div", { class: "charts" }, more.map((metric) => chart(metric)))));
}

function heldOut(evaluations, range) {
  return makeChart({
    key: "held_out", title: "Held-out accuracy", help: "With its 95% interval", range, share: true, format: percent, points: true, selects: true,
    lines: evaluations.map(({ run, list }) => ({
      run, x: list.map((one) => one.step), y: list.map((one) => one.accuracy),
      low: list.map((one) => one.ci95?.[0] ?? one.accuracy), high: list.map((one) => one.ci95?.[1] ?? one.accuracy),
    })),
  });
}

/** What a reward counts for, where all runs agree on it. */
function weighed(name) {
  const told = new Set(RUNS.map((run) => run.rewards[name]).filter(Boolean)
    .map(({ weight, gate }) => `weight ${weight}${gate ? `, if ${gate}` : ""}`));
  return told.size === 1 ? [...told][0] : RUNS.length === 1 && Object.keys(RUNS[0].rewards).length ? "weight 0" : null;
}
