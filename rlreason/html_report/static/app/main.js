// The page is drawn from the top; the completions, which come last in the file, once they are there.

const SECTIONS = [["findings", "Findings"], ["curves", "Curves"], ["time", "Time"], ["completions", "Completions"]];

function startNavigation() {
  byId("top-name").textContent = RUNS.length === 1 ? RUNS[0].name : `${RUNS.length} runs`;
  replace(byId("nav"), SECTIONS.filter(([id]) => byId(id)).map(([id, title]) => h("a", { href: `#${id}` }, title)));
}

/** The bar at the lower edge while a step is selected. */
function startSelection() {
  const bar = byId("selection");
  onChange("step", () => {
    bar.hidden = state.step == null;
    if (bar.hidden) return;
    const shown = RUNS.map((run, place) => (run.sample.kept ? nearestShown(place, state.step) : null)).find((step) => step != null);
    const told = shown == null ? "no completions" : shown === state.step ? "" : `completions of step ${shown.toLocaleString("en-US")}`;
    replace(bar, h("b", {}, `Step ${state.step.toLocaleString("en-US")}`), told && h("span", { class: "quiet" }, told),
      shown != null && h("button", { type: "button", class: "primary", on: { click: () => byId("completions").scrollIntoView({ behavior: "smooth" }) } }, "See its completions"),
      h("button", { type: "button", "aria-label": "Clear the selected step", on: { click: () => selectStep(null) } }, "Clear"));
  });
}

startTheme(redrawCharts);
startSummary();
performance.mark("headline");
startFindings();
startCurves();
startTime();
startNavigation();
startSelection();
byId("foot").textContent = "Made by rlreason. Charts by uPlot. This file holds all of its data and asks no network for anything.";
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startBrowser);
else startBrowser();
