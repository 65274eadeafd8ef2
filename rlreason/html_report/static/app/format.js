// Numbers as people read them.

const NONE = "–";
const MINUS = "\u2212";

function signed(text) {
  return text.replace(/^-/, MINUS);
}

/** As Python rounds, a half to the even digit: the page says what the run has printed. */
function fixed(value, digits) {
  const scaled = value * 10 ** digits;
  const half = Math.abs(scaled % 1) === 0.5;
  return (half ? (2 * Math.round(scaled / 2)) / 10 ** digits : value).toFixed(digits);
}

function percent(value, digits = 1) {
  return value == null ? NONE : `${signed(fixed(100 * value, digits))}%`;
}

function number(value) {
  if (value == null) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return signed(value.toExponential(1));
  if (Number.isInteger(value)) return signed(value.toLocaleString("en-US"));
  return signed(value.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : size < 1000 ? 1 : 0));
}

function short(value) {
  return value == null ? NONE : signed(value.toFixed(2));
}

function plus(value, digits = 2) {
  if (value == null) return NONE;
  const text = signed(fixed(value, digits));
  return value > 0 ? `+${text}` : text;
}

function interval(bounds) {
  return bounds ? `[${bounds.map((bound) => signed(fixed(100 * bound, 1))).join(", ")}]` : "";
}

function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 60) return `${Number(seconds.toFixed(seconds < 10 ? 2 : 1))} s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function count(value, what) {
  return `${value.toLocaleString("en-US")} ${what}${value === 1 ? "" : "s"}`;
}

const STAGE_TITLES = {
  pretrain: "Pretraining", sft: "Cold start", reward_model: "Reward model", grpo: "GRPO", ppo: "PPO",
};

function stageTitle(name) {
  return STAGE_TITLES[name] || name.replace(/_/g, " ").replace(/^best of/, "Best of").replace(/^before/, "Before");
}
