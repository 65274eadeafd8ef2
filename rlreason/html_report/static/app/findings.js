// What the doctor found: what was seen, since when, what it usually means, what to try.

function startFindings() {
  const judged = RUNS.filter((run) => run.doctor);
  const all = judged.flatMap((run) => run.doctor.findings);
  const standing = all.filter((one) => one.until == null).length;
  if (!judged.length) {
    replace(byId("findings"), heading("Findings"), h("p", { class: "empty" }, "The doctor judges the steps of GRPO and PPO. There are none yet."));
    return;
  }
  const told = all.length ? `${standing} at the end${all.length > standing ? `, ${all.length - standing} that are over` : ""}` : null;
  replace(byId("findings"), heading("Findings", told),
    RUNS.length === 1 ? findingsOf(RUNS[0]) : RUNS.map((run, place) => (run.doctor ? h("div", { class: "of-run" },
      h("h3", {}, dot(place), run.name), findingsOf(run)) : null)));
}

function findingsOf(run) {
  const { findings, unjudged } = run.doctor;
  return [
    findings.length ? h("div", { class: "findings" }, findings.map(finding))
      : h("p", { class: "card calm" }, icon("calm"), "The doctor has found nothing wrong with this run."),
    unjudged.length > 0 && h("details", { class: "more" }, h("summary", {}, `${count(unjudged.length, "rule")} could not be judged`),
      h("ul", {}, unjudged.map((text) => h("li", {}, text)))),
  ];
}

function finding(one) {
  const over = one.until != null;
  const level = over ? "over" : one.level;
  const when = over ? `step ${one.since} to ${one.until}, over` : `since step ${one.since}`;
  const body = [
    h("dl", {}, h("dt", {}, "Seen"), h("dd", {}, one.seen, one.latest && h("span", { class: "latest" }, `Step ${one.held}: ${one.latest}`)),
      h("dt", {}, "Means"), h("dd", {}, marked(one.means)),
      one.hints.length > 0 && [h("dt", {}, "Try"), h("dd", {}, h("ul", {}, one.hints.map((hint) => h("li", {}, marked(hint)))))]),
  ];
  const head = [icon(level), h("span", { class: "finding-title" }, sentence(one.title)), h("span", { class: "finding-when" }, `${over ? "" : `${one.level}, `}${when}`)];
  return h("details", { class: `card finding ${level}`, open: !over, "data-finding": one.name }, h("summary", {}, head), body);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function icon(level) {
  const shapes = {
    warning: svg("path", { d: "M8 1.5 15 14H1z M8 6v4 M8 12v.4" }), note: svg("path", { d: "M8 1.5a6.5 6.5 0 1 1 0 13a6.5 6.5 0 1 1 0-13 M8 7v4.4 M8 4.6v.4" }),
  };
  const tick = svg("path", { d: "M8 1.5a6.5 6.5 0 1 1 0 13a6.5 6.5 0 1 1 0-13 M5 8.3l2.2 2.2L11 6.2" });
  return svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, class: `icon ${level}`, "aria-hidden": "true" }, shapes[level] || tick);
}
