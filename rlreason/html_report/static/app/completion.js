// One completion: reasoning and answer set apart, and what each reward said of it.

const ROLE_TITLES = { think: "Thinking", answer: "Answer" };

function completionText(completion, words) {
  const blocks = h("div", { class: "pieces" });
  for (let i = 0; i < completion.pieces.length; i += 2) {
    const role = completion.pieces[i], text = completion.pieces[i + 1];
    if (role === "cut") blocks.append(h("p", { class: "cut" }, `${text} characters are left out here`));
    else if (text.trim()) {
      blocks.append(h("div", { class: `piece ${role}` }, ROLE_TITLES[role] && h("h5", {}, ROLE_TITLES[role]), h("pre", {}, highlighted(trimmed(text), words)),
        role === "prefill" && h("small", {}, "written by the prompt")));
    }
  }
  if (!blocks.firstChild) blocks.append(h("p", { class: "cut" }, "The completion is empty."));
  return blocks;
}

function trimmed(text) {
  return text.replace(/^\s*\n/, "").trimEnd();
}

function scoresOf(completion) {
  return h("table", { class: "scores" }, h("tbody", {}, completion.scores.map((score) => h("tr", { class: score.failed ? "failed" : "" },
    h("th", { scope: "row" }, score.name), h("td", { class: "num" }, score.failed ? "failed" : score.value == null ? "abstains" : number(score.value)),
    h("td", { class: "reason" }, score.reason)))));
}

/** Reward as a small tag, its tone between that of 0 and that of the highest of the run. */
function rewardTag(completion, top) {
  if (completion.reward == null) return h("span", { class: "tag none" }, "no reward");
  const share = Math.max(0, Math.min(1, completion.reward / (top || 1)));
  return h("span", { class: "tag", style: { "--share": `${Math.round(100 * share)}%` } }, short(completion.reward));
}

/** Advantage as a bar to the left or the right of 0. */
function advantageBar(completion, widest) {
  const value = completion.advantage ?? 0;
  const part = widest ? (50 * Math.abs(value)) / widest : 0;
  return h("span", { class: "advantage", title: `advantage ${plus(completion.advantage, 3)}` },
    h("span", { class: value < 0 ? "negative" : "positive", style: { width: `${part}%`, [value < 0 ? "right" : "left"]: "50%" } }));
}

function endOf(completion) {
  return completion.finish === "length" ? "cut off" : completion.finish === "stop" ? "" : completion.finish;
}

/** Without an advantage it was left out by down-sampling. */
function learnedFrom(completion) {
  if (completion.advantage == null) return h("span", {}, "not learned from");
  return h("span", {}, "advantage ", h("b", {}, plus(completion.advantage, 3)));
}

function facts(completion) {
  const end = endOf(completion);
  return h("p", { class: "facts" }, rewardTag(completion, completion.group.top), learnedFrom(completion),
    completion.tokens != null && h("span", {}, count(completion.tokens, "token")), end && h("span", { class: "bad" }, end));
}
