// One chart: a card with a title, the values under the cursor, and the curves of all runs.

const charts = new Set();
const CHART_HEIGHT = matchMedia("(max-width: 640px)").matches ? 116 : 148;

const visibleCharts = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    visibleCharts.unobserve(entry.target);
    entry.target.chart.draw();
  }
}, { rootMargin: "300px" });

const resizedCharts = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const { plot } = target.chart;
    if (plot && Math.abs(plot.width - contentRect.width) > 1 && contentRect.width > 40) {
      plot.setSize({ width: contentRect.width, height: heightOf(target.chart) });
    }
  }
});

/**
 * A card. `lines` are {run, x, y, low?, high?}; `format` writes a value; `range` is that of x; `share` says that
 * values lie between 0 and 1. Stacked charts have `layers` (names and colours) and draw the sum up to each.
 */
function makeChart(options) {
  const values = h("div", { class: "chart-values" });
  const body = h("div", { class: "chart-body", style: { height: `${heightOf({ options })}px` } });
  const card = h("figure", { class: "card chart", "data-chart": options.key },
    h("figcaption", {}, h("span", { class: "chart-title", title: options.help }, options.title),
      options.note && h("span", { class: "chart-note" }, options.note), values),
    body);
  const chart = { options, values, body, card, plot: null, draw: () => draw(chart) };
  body.chart = chart;
  charts.add(chart);
  visibleCharts.observe(body);
  resizedCharts.observe(body);
  return card;
}

function heightOf({ options }) {
  return options.height || CHART_HEIGHT;
}

/** Forget the charts of cards that are no longer in the page. */
function dropCharts(within) {
  for (const chart of charts) {
    if (!within.contains(chart.card)) continue;
    chart.plot?.destroy();
    charts.delete(chart);
  }
}

function redrawCharts() {
  for (const chart of charts) if (chart.plot) draw(chart);
}

/** The curves of several runs on one x: what a run has not is null. */
function align(lines) {
  const x = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(x.map((step, index) => [step, index]));
  const spreadOut = (line, column) => {
    const out = new Array(x.length).fill(null);
    column?.forEach((value, index) => { out[place.get(line.x[index])] = value; });
    return out;
  };
  return { x, columns: lines.map((line) => ({ y: spreadOut(line, line.y), low: spreadOut(line, line.low), high: spreadOut(line, line.high) })) };
}

/** The mean of each value and its neighbours, so that the eye sees where a noisy curve goes. */
function smoothed(column) {
  const reach = Math.max(1, Math.round(column.length / 40));
  return column.map((value, place) => {
    if (value == null) return null;
    let sum = 0, known = 0;
    for (let i = Math.max(0, place - reach); i <= place + reach; i++) {
      if (column[i] != null) { sum += column[i]; known++; }
    }
    return sum / known;
  });
}

function draw(chart) {
  const { options, body } = chart;
  chart.plot?.destroy();
  const lines = options.lines.filter((line) => !state.hidden.has(line.run));
  chart.lines = lines;
  const { x, columns } = align(lines);
  chart.x = x;
  chart.columns = columns;
  const { data, series, bands } = options.layers ? stack(options, x, lines) : curves(options, x, columns, lines);
  chart.plot = new uPlot({
    width: Math.max(body.clientWidth, 60),
    height: heightOf(chart),
    padding: [10, 6 + 3.5 * options.range[1].toLocaleString("en-US").length, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 7, width: 2 }, drag: { x: false, y: false }, sync: { key: "steps", setSeries: false } },
    scales: { x: { time: false, range: () => wide(options.range) }, y: { range: (_, low, high) => span(options, low, high) } },
    axes: [axis({ space: 56, size: 26, values: (_, splits) => splits.map((s) => (Number.isInteger(s) ? s.toLocaleString("en-US") : "")) }),
      axis({ space: 30, size: (_, labels) => Math.max(44, 14 + 6.4 * Math.max(...(labels || [""]).map((label) => label.length))),
        values: (_, splits) => ticks(options, splits) })],
    series, bands,
    hooks: { setLegend: [() => showValues(chart)], draw: [(plot) => markStep(plot)] },
  }, [x, ...data], body);
  chart.plot.over.addEventListener("click", () => {
    const index = chart.plot.cursor.idx;
    if (index != null && options.selects) selectStep(x[index]);
  });
  showValues(chart);
}

function wide([low, high]) {
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** The y of a chart: with some room above and below, but shares stay between 0 and 1. */
function span(options, low, high) {
  if (low == null) return [0, 1];
  if (options.layers) return [0, high * 1.05 || 1];
  const room = high > low ? 0.08 * (high - low) : Math.abs(high) * 0.1 || (options.share ? 0.05 : 1);
  const bounds = [low - room, high + room];
  if (low >= 0 && bounds[0] < 0) bounds[0] = 0;
  if (options.share && high <= 1 && bounds[1] > 1) bounds[1] = 1;
  return bounds;
}

/** Labels of one precision, as few digits as tell them apart. */
function ticks(options, splits) {
  if (options.share) {
    const digits = digitsOf(splits.map((split) => 100 * split));
    return splits.map((split) => percent(split, digits));
  }
  const step = splits.length > 1 ? splits[1] - splits[0] : 1;
  const top = Math.max(...splits.map(Math.abs));
  if (top >= 1e5 || top < 1e-3) return splits.map((split) => (split === 0 ? "0" : signed(split.toExponential(step < top / 12 ? 1 : 0))));
  const digits = digitsOf(splits);
  return splits.map((split) => signed(split.toFixed(digits)));
}

/** The fewest digits behind the point with which all of the values are written as they are. */
function digitsOf(values) {
  const scale = Math.max(...values.map(Math.abs)) || 1;
  let digits = 0;
  while (digits < 6 && values.some((value) => Math.abs(Number(value.toFixed(digits)) - value) > 1e-6 * scale)) digits++;
  return digits;
}

function axis(own) {
  const faint = colour("--hairline");
  return { stroke: colour("--quiet"), font: "11px system-ui, sans-serif", gap: 6, grid: { stroke: faint, width: 1 },
    ticks: { show: false }, ...own };
}

function curves(options, x, columns, lines) {
  const data = [], series = [{}], bands = [];
  const smooth = !options.points && x.length >= 30;
  lines.forEach((line, place) => {
    const stroke = colour(`--run-${line.run % 12}`);
    const { y, low, high } = columns[place];
    if (line.low) {
      const first = data.length + 1;
      data.push(high, low);
      series.push({ stroke: "transparent", points: { show: false }, spanGaps: true }, { stroke: "transparent", points: { show: false }, spanGaps: true });
      bands.push({ series: [first, first + 1], fill: `${stroke}26` });
    }
    if (smooth) {
      data.push(y);
      series.push({ stroke: `${stroke}40`, width: 1, points: { show: false }, spanGaps: true });
    }
    data.push(smooth ? smoothed(y) : y);
    series.push({ stroke, width: 2, spanGaps: true, points: { show: Boolean(options.points) || x.length === 1, size: 6, fill: stroke } });
  });
  return { data, series, bands };
}

/** Layers one upon the other; the highest is drawn first, so that the lower ones cover it. */
function stack(options, x, [line]) {
  const data = [], series = [{}];
  const sums = x.map(() => 0);
  for (const layer of options.layers) {
    const column = line.parts[layer.name];
    data.unshift(x.map((_, index) => (sums[index] += column[index] ?? 0)));
    const fill = colour(layer.colour);
    series.splice(1, 0, { stroke: colour("--card"), width: 1, fill, points: { show: false } });
  }
  return { data, series, bands: [] };
}

function showValues(chart) {
  const { options, plot, values, lines, columns, x } = chart;
  const index = plot?.cursor.idx;
  const live = index != null;
  if (options.layers) {
    const at = live ? index : x.length - 1;
    const total = options.layers.reduce((sum, layer) => sum + (lines[0].parts[layer.name][at] ?? 0), 0);
    replace(values, h("b", {}, duration(total)), h("small", {}, `step ${x[at].toLocaleString("en-US")}`));
    return;
  }
  const shown = lines.map((line, place) => {
    const column = columns[place].y;
    let at = index;
    if (!live) for (at = column.length - 1; at > 0 && column[at] == null; at--);
    return { line, value: column[at], step: x[at] };
  });
  if (RUNS.length === 1) {
    replace(values, shown.map(({ value, step }) => [h("b", {}, options.format(value)),
      h("small", {}, step == null ? "" : `step ${step.toLocaleString("en-US")}`)]));
  } else {
    replace(values, shown.map(({ line, value }) => h("span", { class: "chart-value" }, dot(line.run), options.format(value))),
      h("small", {}, live ? `step ${x[index].toLocaleString("en-US")}` : "last"));
  }
}

function markStep(plot) {
  if (state.step == null || !plot.over.isConnected) return;
  const { chart } = plot.root.parentElement;
  if (!chart.options.selects) return;
  const at = plot.valToPos(state.step, "x", true);
  const { left, top, width, height } = plot.bbox;
  if (at < left - 1 || at > left + width + 1) return;
  plot.ctx.save();
  plot.ctx.fillStyle = colour("--accent");
  plot.ctx.fillRect(at - devicePixelRatio * 0.75, top, devicePixelRatio * 1.5, height);
  plot.ctx.restore();
}

onChange("step", () => { for (const chart of charts) chart.plot?.redraw(false, false); });
onChange("hidden", redrawCharts);
