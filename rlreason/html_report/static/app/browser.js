// The browser of completions: filters, a list that holds any number of rows, and the one that is chosen.

const ROW = 64;

function startBrowser() {
  const section = byId("completions");
  const with_ = RUNS.map((_, place) => place).filter((place) => RUNS[place].sample.kept > 0);
  if (!with_.length) {
    replace(section, heading("Completions"), h("p", { class: "empty" }, "No completion has been saved. They are written in GRPO and PPO."));
    return;
  }
  const browser = { run: with_[0], chosen: null, found: [], view: { mode: "one" }, filter: { words: "", step: null, from: null, to: null, order: "step" } };
  const tell = h("p", { class: "aside rule" });
  const total = h("span", { class: "found", role: "status" });
  const list = makeList((one) => { browser.chosen = one; show(); if (narrow()) pane.scrollIntoView(); });
  const pane = h("div", { class: "detail card" });
  const filters = makeFilters(browser, apply);

  function show() {
    list.mark(browser.chosen);
    showDetail(pane, browser.chosen, browser.filter.words, browser.view, (one) => { browser.chosen = one; show(); });
  }
  function apply() {
    browser.found = matching(unpack(browser.run), browser.filter);
    total.textContent = `${count(browser.found.length, "completion")}${browser.filter.step == null ? "" : ` of step ${browser.filter.step.toLocaleString("en-US")}`}`;
    if (!browser.found.includes(browser.chosen)) browser.chosen = browser.found[0] || null;
    list.rows(browser.found, browser.filter.words);
    show();
  }
  function changeRun() {
    for (const group of RUNS[browser.run].groups || []) group.top ??= topReward(browser.run);
    tell.textContent = ruleOf(RUNS[browser.run].sample);
    filters.steps(shownSteps(browser.run));
  }
  function chooseRun(place) {
    browser.run = place;
    unpack(place);
    changeRun();
    followStep();
  }
  function followStep() {
    browser.filter.step = state.step == null ? null : nearestShown(browser.run, state.step);
    filters.follow();
    apply();
  }
  const runs = RUNS.length > 1 ? h("select", { "aria-label": "Run", on: { change: (event) => chooseRun(Number(event.target.value)) } },
    with_.map((place) => h("option", { value: place }, RUNS[place].name))) : null;
  replace(section, heading("Completions", null, runs), tell, filters.element, total, h("div", { class: "browser" }, list.element, pane));
  onChange("step", followStep);
  chooseRun(browser.run);
  performance.mark("completions");
  section.dataset.ready = "true";
}

function narrow() {
  return matchMedia("(max-width: 860px)").matches;
}

function topReward(place) {
  const run = RUNS[place];
  run.top ??= run.completions.reduce((most, one) => Math.max(most, one.reward ?? 0), 0);
  return run.top;
}

/** The rule by which the completions in the page were chosen, in words. */
function ruleOf(sample) {
  const parts = [];
  const all = (value) => value.toLocaleString("en-US");
  if (sample.kept === sample.completions) parts.push(`All ${all(sample.completions)} completions.`);
  else if (sample.per_step == null) parts.push(`${all(sample.kept)} of ${all(sample.completions)} completions.`);
  else {
    const groups = sample.per_step === 1 ? "the first group" : `the first ${all(sample.per_step)} groups`;
    parts.push(sample.shown_steps === sample.steps
      ? `A sample: ${all(sample.kept)} of ${all(sample.completions)} completions, ${groups} of every step, each group whole.`
      : `A sample: ${all(sample.kept)} of ${all(sample.completions)} completions, ${groups} of ${all(sample.shown_steps)} of ${all(sample.steps)} steps, spread evenly, the first and the last among them; each group whole.`);
  }
  if (sample.kept < sample.completions) parts.push(`Of a group with more than ${sample.largest_group} completions ${sample.largest_group} are shown, those that were learned from before the others.`);
  parts.push(`The middle of a text is left out beyond ${all(sample.longest_text)} characters.`);
  if (sample.unreadable) parts.push(`${count(sample.unreadable, "line")} of samples.jsonl could not be read.`);
  return parts.join(" ");
}

function makeFilters(browser, apply) {
  const { filter } = browser;
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(apply, 120); };
  const bound = (event) => (event.target.value.trim() === "" || Number.isNaN(Number(event.target.value)) ? null : Number(event.target.value));
  const numeric = (key, label) => h("input", { type: "number", step: "any", inputmode: "decimal", placeholder: "any", "aria-label": label, id: `reward-${key}`,
    on: { input: (event) => { filter[key] = bound(event); later(); } } });
  const words = h("input", { type: "search", id: "words", placeholder: "Search in questions and completions", "aria-label": "Search", autocomplete: "off", spellcheck: "false",
    on: { input: (event) => { filter.words = event.target.value; later(); } } });
  const step = h("select", { id: "step", "aria-label": "Step", on: { change: (event) => selectStep(event.target.value === "" ? null : Number(event.target.value)) } });
  const order = h("select", { id: "order", "aria-label": "Order", on: { change: (event) => { filter.order = event.target.value; apply(); } } },
    ORDERS.map(([value, text]) => h("option", { value }, text)));
  const element = h("div", { class: "filters" }, words,
    h("label", { class: "field" }, h("span", {}, "Step"), step),
    h("div", { class: "field" }, h("span", {}, "Reward"), numeric("from", "Reward from"), h("span", {}, "to"), numeric("to", "Reward to")), order);
  return {
    element,
    steps: (list) => replace(step, h("option", { value: "" }, "All steps"), list.map((one) => h("option", { value: one }, one.toLocaleString("en-US")))),
    follow: () => { step.value = filter.step ?? ""; },
  };
}

/** A list of which only the rows in sight are elements. */
function makeList(choose) {
  const inner = h("div", { class: "rows" });
  const element = h("div", { class: "list card", tabindex: 0, role: "listbox", "aria-label": "Completions" }, inner);
  let rows = [], words = "", chosen = null;
  const draw_ = () => {
    const first = Math.max(0, Math.floor(element.scrollTop / ROW) - 4);
    const last = Math.min(rows.length, first + Math.ceil((element.clientHeight || 600) / ROW) + 9);
    replace(inner, rows.slice(first, last).map((one, place) => row(one, first + place, one === chosen, words, choose)));
  };
  element.addEventListener("scroll", () => requestAnimationFrame(draw_), { passive: true });
  new ResizeObserver(draw_).observe(element);
  element.addEventListener("keydown", (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = way && rows[rows.indexOf(chosen) + way];
    if (!next) return;
    event.preventDefault();
    choose(next);
  });
  return {
    element,
    rows: (found, wanted) => {
      rows = found;
      words = wanted;
      inner.style.height = `${rows.length * ROW}px`;
      element.scrollTop = 0;
      draw_();
    },
    mark: (one) => {
      chosen = one;
      const at = rows.indexOf(one) * ROW;
      if (at >= 0 && at < element.scrollTop) element.scrollTop = at;
      else if (at + ROW > element.scrollTop + element.clientHeight) element.scrollTop = at + ROW - element.clientHeight;
      draw_();
    },
  };
}

function row(completion, place, chosen, words, choose) {
  const end = endOf(completion);
  return h("div", { class: "row", role: "option", "aria-selected": String(chosen), style: { top: `${place * ROW}px` }, on: { click: () => choose(completion) } },
    h("div", { class: "row-head" }, rewardTag(completion, completion.group.top), h("span", {}, `step ${completion.group.step.toLocaleString("en-US")} · group ${completion.group.group}`), end && h("span", { class: "bad" }, end),
      h("span", { class: "row-answer" }, partOf(completion, "answer").slice(0, 40))),
    h("div", { class: "row-text" }, highlighted(excerpt(completion, words), words)));
}

/** The beginning of the reasoning; with words searched for, the place where they stand. */
function excerpt(completion, words) {
  const wanted = words.trim().toLowerCase();
  const text = (!wanted && partOf(completion, "think")) || textOf(completion);
  const at = wanted ? text.toLowerCase().indexOf(wanted) : 0;
  const start = at > 40 ? at - 30 : 0;
  const cut = text.slice(start, start + 160).replace(/\s+/g, " ").trim();
  return (start ? "…" : "") + cut || "(empty)";
}
