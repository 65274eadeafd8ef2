// What is selected, and who wants to know. Everything else is in the elements themselves.

const state = { step: null, hidden: new Set() };
const listeners = { step: [], hidden: [] };

function onChange(what, act) {
  listeners[what].push(act);
}

function announce(what) {
  for (const act of listeners[what]) act();
}

/** Select a step of the online stage, or none. */
function selectStep(step) {
  if (state.step === step) return;
  state.step = step;
  announce("step");
}

/** The steps that a run shows completions of, in order. */
function shownSteps(number) {
  const run = RUNS[number];
  if (!run.shownSteps) {
    unpack(number);
    run.shownSteps = [...new Set(run.groups.map((group) => group.step))].sort((a, b) => a - b);
  }
  return run.shownSteps;
}

/** The step with completions that is nearest to `step`; null where there is none. */
function nearestShown(number, step) {
  let best = null;
  for (const one of shownSteps(number)) {
    if (best === null || Math.abs(one - step) < Math.abs(best - step)) best = one;
  }
  return best;
}
