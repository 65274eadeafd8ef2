// The group of a completion: all answers to one question, with rewards and advantages, and side by side.

/** The right side of the browser. `choose` is called with another completion of the group. */
function showDetail(pane, completion, words, view, choose) {
  if (!completion) {
    replace(pane, h("p", { class: "empty" }, "Nothing fits these filters."));
    return;
  }
  const { group } = completion;
  const views = segmented("View", [["one", "Completion"], ["group", "Side by side"]], view.mode, (mode) => {
    view.mode = mode;
    showDetail(pane, completion, words, view, choose);
  });
  const back = h("button", { type: "button", class: "back", on: { click: () => byId("completions").scrollIntoView() } }, "Back to the list");
  replace(pane,
    h("div", { class: "detail-head" }, h("p", { class: "detail-place" }, h("b", {}, `Step ${group.step.toLocaleString("en-US")}`), ` · group ${group.group} · ${group.size > 1 ? `${completion.place + 1} of ${group.size}` : "one completion"}`), back, views),
    h("div", { class: "question" }, h("h5", {}, "Question"), h("pre", {}, highlighted(group.question, words)),
      group.answer && h("p", { class: "gold" }, "Right answer: ", h("b", {}, group.answer)),
      group.greedy != null && h("p", { class: "gold" }, "Reward of the greedy completion: ", h("b", {}, short(group.greedy)))),
    view.mode === "one" ? [groupStrip(group, completion, choose), facts(completion), completionText(completion, words), h("h5", {}, "Rewards"), scoresOf(completion)]
      : sideBySide(group, completion, words));
}

function widestAdvantage(group) {
  return group.members.reduce((most, one) => Math.max(most, Math.abs(one.advantage ?? 0)), 0);
}

/** All completions of the group in small: a click shows one. */
function groupStrip(group, chosen, choose) {
  const widest = widestAdvantage(group);
  return h("div", { class: "strip", role: "group", "aria-label": "Completions of the group" }, group.members.map((one) => h("button", {
    type: "button", "aria-pressed": String(one === chosen), on: { click: () => choose(one) },
    title: `Reward ${short(one.reward)}, ${one.advantage == null ? "not learned from" : `advantage ${plus(one.advantage, 3)}`}`,
  }, h("span", { class: "strip-number" }, one.place + 1), h("span", { class: "strip-reward" }, short(one.reward)), advantageBar(one, widest))));
}

function sideBySide(group, chosen, words) {
  const widest = widestAdvantage(group);
  return h("div", { class: "beside", tabindex: 0 }, group.members.map((one) => h("article", { class: one === chosen ? "beside-one chosen" : "beside-one" },
    h("header", {}, h("span", { class: "strip-number" }, one.place + 1), facts(one)), advantageBar(one, widest),
    h("div", { class: "beside-text" }, completionText(one, words)), scoresOf(one))));
}
