// Which completions are listed, and in which order.

const ORDERS = [
  ["step", "In order of steps"], ["reward-down", "Highest reward first"], ["reward-up", "Lowest reward first"],
  ["advantage-down", "Highest advantage first"], ["tokens-down", "Longest first"],
];

/** The completions that pass all filters, in order. `from` and `to` bound the reward, both included. */
function matching(completions, { words, step, from, to, order }) {
  const wanted = words.trim().toLowerCase();
  const found = completions.filter((one) => (step == null || one.group.step === step)
    && (from == null || (one.reward != null && one.reward >= from)) && (to == null || (one.reward != null && one.reward <= to))
    && (!wanted || holds(one, wanted)));
  if (order !== "step") {
    const [key, way] = order.split("-");
    const sign = way === "down" ? -1 : 1;
    // What has no value comes last, whichever way it goes.
    found.sort((a, b) => (a[key] == null) - (b[key] == null) || sign * ((a[key] ?? 0) - (b[key] ?? 0)));
  }
  return found;
}

function holds(completion, wanted) {
  return textOf(completion).toLowerCase().includes(wanted) || completion.group.question.toLowerCase().includes(wanted);
}

/** `text` with every occurrence of `words` marked. */
function highlighted(text, words) {
  const wanted = words.trim().toLowerCase();
  // Where lower case has another length than the text, places would not agree.
  const lower = text.toLowerCase();
  if (!wanted || lower.length !== text.length) return [text];
  const parts = [];
  let place = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, place)) {
    parts.push(text.slice(place, at), h("mark", {}, text.slice(at, at + wanted.length)));
    place = at + wanted.length;
  }
  return [...parts, text.slice(place)];
}
