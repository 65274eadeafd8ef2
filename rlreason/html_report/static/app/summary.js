// The headline: held-out accuracy before and after, the gain, and the way there.

function startSummary() {
  const section = byId("summary");
  if (RUNS.length > 1) {
    replace(section, h("h1", {}, `${RUNS.length} runs compared`), h("p", { class: "lead" }, `Written ${DATA.made}`),
      compared(), differences());
    return;
  }
  const [run] = RUNS;
  replace(section, h("h1", {}, run.name), h("p", { class: "lead" }, status(run), ` · written ${DATA.made}`),
    run.remarks.map((remark) => h("p", { class: "remark" }, remark)),
    figures(run), h("div", { class: "halves" }, stageTable(run), changes(run)));
}

function status(run) {
  const stage = stageOf(run, run.online) || run.stages[run.stages.length - 1];
  const planned = run.planned.map(stageTitle).join(" → ");
  const steps = stage ? `${stageTitle(stage.name)} step ${number(stage.last)}${stage.planned ? ` of ${number(stage.planned)}` : ""}` : "no step yet";
  const trained = run.stages.reduce((sum, one) => sum + trainedSeconds(one), 0);
  return [planned, run.finished ? "finished" : "not finished", steps, trained ? `${duration(trained)} of training` : ""].filter(Boolean).join(" · ");
}

function figures(run) {
  const { before, after, gain } = run.headline;
  const cards = [];
  const of = (one) => `${interval(one.ci95)} · ${count(one.n ?? 0, "held-out question")}`;
  if (before) cards.push(figure("Accuracy before", percent(before.accuracy), of(before)));
  if (after) cards.push(figure("Accuracy after", percent(after.accuracy), of(after)));
  if (gain) {
    const [low, high] = gain.ci95 || [null, null];
    const word = low > 0 ? "good" : high < 0 ? "bad" : "";
    const told = high < 0 ? "it got worse" : low > 0 ? "95% interval" : "holds 0: no gain is shown";
    cards.push(figure("Gain", `${plus(100 * gain.value, 1)} points`, `${interval(gain.ci95)} · ${told}`, word));
  }
  const model = run.reward_model;
  if (!cards.length && model) {
    cards.push(figure("Reward model: pairs right", percent(model.accuracy), of({ ...model, n: null }).split(" · ")[0]),
      figure("by length alone", percent(model.length_accuracy), count(model.n ?? 0, "held-out pair")),
      figure("Calibration error", number(model.calibration_error), ""));
  }
  if (!cards.length) {
    for (const row of run.headline.table) cards.push(figure(`Accuracy after ${stageTitle(row.name).toLowerCase()}`, percent(row.accuracy), interval(row.ci95)));
  }
  if (!cards.length) return h("p", { class: "empty" }, "No evaluation on held-out questions is there yet.");
  return h("div", { class: "figures" }, cards);
}

function figure(title, value, below, word = "") {
  return h("div", { class: `card figure ${word}` }, h("h3", {}, title), h("p", { class: "figure-value" }, value), h("p", { class: "figure-below" }, below));
}

/** A value with its interval on a line from 0% to 100%. */
function whisker(accuracy, bounds, run = 0) {
  if (accuracy == null) return null;
  const at = (value) => `${2 + 96 * value}%`;
  const line = (x1, x2, name) => svg("line", { x1, x2, y1: 9, y2: 9, class: name });
  return svg("svg", { class: "whisker", height: 18, width: "100%", "aria-hidden": "true", style: { "--c": `var(--run-${run % 12})` } },
    line(at(0), at(1), "whisker-axis"), bounds && line(at(bounds[0]), at(bounds[1]), "whisker-range"),
    svg("circle", { cx: at(accuracy), cy: 9, r: 4.5 }));
}

function stageTable(run) {
  const rows = [...run.headline.table];
  if (rows.length < 2) return null;
  return h("div", { class: "card" }, h("h3", {}, "Held-out accuracy, stage by stage"),
    h("table", { class: "stages" }, h("tbody", {}, rows.map((row) => h("tr", {},
      h("th", { scope: "row" }, stageTitle(row.name)), h("td", { class: "wide" }, whisker(row.accuracy, row.ci95)),
      h("td", { class: "num" }, percent(row.accuracy)), h("td", { class: "num quiet" }, interval(row.ci95)))))));
}

const CHANGES = [
  ["format", "Answers in the asked form", percent], ["accuracy_given_format", "Right, of those in form", percent],
  ["derives", "Reasoning works in steps", percent], ["truncated", "Cut off at the limit", percent], ["tokens", "Tokens in a completion", number],
];

function changes(run) {
  const { before, after } = run.headline;
  const only = after || before;
  if (!only) return null;
  const rows = CHANGES.filter(([key]) => only[key] != null);
  return h("div", { class: "card" }, h("h3", {}, before && after ? "How the answers changed" : "The answers"),
    h("table", {}, before && after && h("thead", {}, h("tr", {}, h("td", {}), h("th", { class: "num" }, "before"), h("th", { class: "num" }, "after"))),
      h("tbody", {}, rows.map(([key, title, format]) => h("tr", {}, h("th", { scope: "row" }, title),
        [before, after].filter(Boolean).map((one) => h("td", { class: "num" }, format(one[key]))))))));
}

function compared() {
  const head = ["Run", "Held-out accuracy", "before", "after", "gain", "95% interval", "step", "warnings"];
  const numeric = (place) => place > 1;
  return h("div", { class: "card scroll" }, h("table", { class: "compared" },
    h("thead", {}, h("tr", {}, head.map((text, place) => h("th", { scope: "col", class: numeric(place) ? "num" : place ? "wide" : "" }, text)))),
    h("tbody", {}, RUNS.map((run, place) => {
      const { before, after, gain } = run.headline;
      const last = after || before;
      const stage = stageOf(run, run.online) || run.stages[run.stages.length - 1];
      const warnings = run.doctor ? run.doctor.findings.filter((one) => one.level === "warning" && one.until == null).length : null;
      const word = !gain?.ci95 ? "" : gain.ci95[0] > 0 ? "good" : gain.ci95[1] < 0 ? "bad" : "";
      return h("tr", {}, h("th", { scope: "row" }, dot(place), run.name),
        h("td", { class: "wide" }, last && whisker(last.accuracy, last.ci95, place)),
        h("td", { class: "num" }, percent(before?.accuracy)), h("td", { class: "num strong" }, percent(after?.accuracy)),
        h("td", { class: `num ${word}` }, gain ? plus(100 * gain.value, 1) : NONE), h("td", { class: "num quiet" }, interval(gain?.ci95) || NONE),
        h("td", { class: "num" }, stage ? `${number(stage.last)}${run.finished ? "" : " …"}` : NONE), h("td", { class: "num" }, warnings ?? NONE));
    }))),
    RUNS.flatMap((run) => run.remarks.map((remark) => h("p", { class: "remark" }, `${run.name}: ${remark}`))));
}

/** The fields in which the configs of the runs differ. */
function differences() {
  if (!DATA.differences.length) return null;
  return h("details", { class: "card more" }, h("summary", {}, `${count(DATA.differences.length, "field")} of the configs differ`),
    h("div", { class: "scroll" }, h("table", { class: "differences" },
      h("thead", {}, h("tr", {}, h("td", {}), RUNS.map((run, place) => h("th", { scope: "col" }, dot(place), run.name)))),
      h("tbody", {}, DATA.differences.map(([key, values]) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, key)),
        values.map((value) => h("td", {}, value ?? NONE))))))));
}
