// Light and dark: as the system has it, until the button is used. The choice is kept where that is allowed.

const ROOT = document.documentElement;
const KEY = "rlreason-report-theme";
const SYSTEM_DARK = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return ROOT.dataset.theme ? ROOT.dataset.theme === "dark" : SYSTEM_DARK.matches;
}

function colour(name) {
  return getComputedStyle(ROOT).getPropertyValue(name).trim();
}

function startTheme(changed) {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept === "light" || kept === "dark") ROOT.dataset.theme = kept;
  } catch { /* a browser that keeps nothing for files on the disk */ }
  const button = byId("theme");
  const show = () => replace(button, svg("svg", { viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": "true" },
    svg("circle", { cx: 10, cy: 10, r: 7, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    svg("path", { d: isDark() ? "M10 3a7 7 0 0 0 0 14z" : "M10 3a7 7 0 0 1 0 14z", fill: "currentColor" })));
  button.addEventListener("click", () => {
    ROOT.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEY, ROOT.dataset.theme); } catch { /* as above */ }
    show();
    changed();
  });
  SYSTEM_DARK.addEventListener("change", () => { show(); changed(); });
  show();
}
