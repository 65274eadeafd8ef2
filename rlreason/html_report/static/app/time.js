// Where the time went: the parts of a step over the whole run, and how they changed.

const PARTS = ["sample", "score", "advantage", "update", "record"];

function startTime() {
  const section = byId("time");
  const runs = RUNS.map((run, place) => ({ run, place })).filter(({ run }) => run.stages.some((stage) => trainedSeconds(stage) > 0));
  if (!runs.length) {
    section.remove();
    return;
  }
  const longest = Math.max(...runs.map(({ run }) => spent(run)));
  replace(section, heading("Where the time went", "Writing, saving and evaluating are not counted"),
    h("div", { class: "halves" }, h("div", { class: "card" }, runs.map(({ run, place }) => timeBar(run, place, longest)),
      runs.length === 1 ? timeTable(runs[0].run) : timeLegend(runs)),
    RUNS.length === 1 ? timeChart(runs[0].run) : null));
}

/** Seconds of a stage's steps. A trainer that logs every few steps gives the mean of these. */
function trainedSeconds(stage) {
  const column = stage.series["time/total"] || [];
  let before = 0;
  return stage.x.reduce((sum, step, place) => {
    const steps = step - before;
    before = step;
    return sum + (column[place] ?? 0) * steps;
  }, 0);
}

function spent(run) {
  return partsOf(run).reduce((sum, part) => sum + part.seconds, 0);
}

/** The parts of the online stage's steps, then the other stages as one part each. */
function partsOf(run) {
  const online = stageOf(run, run.online);
  const parts = [];
  for (const stage of run.stages) {
    if (stage === online && Object.keys(stage.parts).length) continue;
    const seconds = trainedSeconds(stage);
    if (seconds > 0) parts.push({ name: stage.name, title: stageTitle(stage.name), seconds, colour: "--part-other", steps: stage.last });
  }
  for (const [name, seconds] of Object.entries(online?.parts || {})) {
    parts.push({ name, title: sentence(name), seconds, colour: PARTS.includes(name) ? `--part-${PARTS.indexOf(name)}` : "--part-other", steps: online.last });
  }
  return parts;
}

function timeBar(run, place, longest) {
  const parts = partsOf(run);
  const bar = h("div", { class: "bar", style: { width: `${(100 * spent(run)) / longest}%` } }, parts.map((part) => h("span", {
    title: `${part.title}: ${duration(part.seconds)}`, style: { "flex-grow": part.seconds, "--c": `var(${part.colour})` },
  })));
  return RUNS.length === 1 ? bar : h("div", { class: "bar-row" }, h("span", { class: "bar-name" }, dot(place), run.name), h("span", { class: "bar-room" }, bar), h("span", { class: "num" }, duration(spent(run))));
}

function timeTable(run) {
  const total = spent(run);
  return h("table", { class: "parts" }, h("thead", {}, h("tr", {}, ["Part", "time", "share", "per step"].map((text, place) => h("th", { scope: "col", class: place ? "num" : "" }, text)))),
    h("tbody", {}, partsOf(run).map((part) => h("tr", {},
      h("th", { scope: "row" }, h("span", { class: "swatch", style: { "--c": `var(${part.colour})` } }), part.title),
      h("td", { class: "num" }, duration(part.seconds)), h("td", { class: "num" }, percent(part.seconds / total)),
      h("td", { class: "num" }, duration(part.seconds / Math.max(part.steps, 1)))))));
}

function timeLegend(runs) {
  const seen = new Map(runs.flatMap(({ run }) => partsOf(run)).map((part) => [part.title, part.colour]));
  return h("p", { class: "keys" }, [...seen].map(([title, tone]) => h("span", {}, h("span", { class: "swatch", style: { "--c": `var(${tone})` } }), title)));
}

function timeChart(run) {
  const stage = stageOf(run, run.online);
  const names = PARTS.filter((name) => stage?.parts[name]);
  if (names.length < 2) return null;
  const parts = Object.fromEntries(names.map((name) => [name, stage.series[`time/${name}`]]));
  return makeChart({
    key: "time", title: "Seconds of a step", help: "Stacked by part", range: [stage.x[0], stage.x[stage.x.length - 1]], selects: true, format: duration,
    layers: names.map((name) => ({ name, colour: `--part-${PARTS.indexOf(name)}` })), lines: [{ run: 0, x: stage.x, parts }], height: 230,
  });
}
