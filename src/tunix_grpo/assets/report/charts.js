"use strict";
// Charts, drawn by uPlot in the colours of the style sheet.

const NUM_COLORS = 8;
const drawn = []; // {place, chart, plot}

/** Returns a colour of the style sheet. */
function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Returns a figure for a chart, which is drawn when the figure comes into view. */
function figureOf(chart) {
  const thinned = chart.logged > chart.steps.length ? ` (${formatCount(chart.logged)} values, the means of neighbours)` : "";
  const caption = make("figcaption", {}, makeText("strong", chart.title));
  if (chart.about) caption.append(" ", makeText("span", `${chart.about}${thinned}`));
  const place = make("div", { className: "plot" });
  const figure = make("figure", {}, caption, place);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw(place, chart);
  }).observe(place);
  return figure;
}

/** Draws a chart into an element, whose width it keeps. */
function draw(place, chart) {
  const one = { place, chart, plot: null };
  drawn.push(one);
  redraw(one);
  new ResizeObserver(() => {
    if (place.clientWidth > 0) one.plot.setSize(sizeIn(place));
  }).observe(place);
}

/** Draws all charts that are still there anew, in the colours that hold now. */
function redrawCharts() {
  for (const one of drawn.splice(0)) {
    if (!one.place.isConnected) continue;
    drawn.push(one);
    redraw(one);
  }
}

function redraw(one) {
  one.plot?.destroy();
  const data = [one.chart.steps, ...one.chart.series.map((series) => series.values)];
  one.plot = new uPlot(optionsFor(one.chart, one.place), data, one.place);
}

function sizeIn(place) {
  const width = Math.max(place.clientWidth, 200);
  return { width, height: Math.round(Math.min(280, Math.max(180, width * 0.55))) };
}

function optionsFor(chart, place) {
  const write = chart.percent ? formatPercent : formatNumber;
  const axis = { stroke: color("ink"), grid: { stroke: color("grid"), width: 1 }, ticks: { stroke: color("grid") } };
  const ticks = (plot, values) => values.map((value) => write(value));
  const steps = chart.steps;
  const alone = steps.length === 1 ? { range: [steps[0] - 1, steps[0] + 1] } : {};
  return {
    ...sizeIn(place),
    scales: { x: { time: false, ...alone } },
    axes: [
      { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] },
      { ...axis, size: 64, values: ticks },
    ],
    series: [{ label: "step" }, ...chart.series.map((series) => seriesFor(series, write))],
    bands: bandsOf(chart.series),
    legend: { markers: { width: 2 } },
  };
}

function seriesFor(series, write) {
  const edge = series.look === "low" || series.look === "high";
  const faint = edge || series.look === "faint";
  const stroke = `${color(`line-${series.color % NUM_COLORS}`)}${faint ? "55" : ""}`;
  return {
    label: visibleText(series.label),
    stroke,
    width: faint ? 1 : 2,
    dash: series.color >= NUM_COLORS ? [6, 4] : undefined,
    spanGaps: true,
    points: { show: series.look === "dots" || series.values.filter((value) => value !== null).length === 1, size: 6 },
    value: (plot, value) => (value === null || value === undefined ? "" : write(value)),
  };
}

function bandsOf(allSeries) {
  const bands = [];
  for (let place = 1; place < allSeries.length; place++) {
    if (allSeries[place].look !== "high" || allSeries[place - 1].look !== "low") continue;
    const fill = `${color(`line-${allSeries[place].color % NUM_COLORS}`)}22`;
    bands.push({ series: [place + 1, place], fill });
  }
  return bands;
}

/** Returns the charts of a page: the first ones, and the others where they are asked for. */
function chartsSection(charts) {
  const grid = (some) => make("div", { className: "charts" }, ...some.map(figureOf));
  const first = charts.filter((chart) => !chart.more);
  const others = charts.filter((chart) => chart.more);
  if (charts.length === 0) return section("curves", "Curves", make("p", { textContent: "Nothing has been logged." }));
  const more = make("details", {}, make("summary", { textContent: `all other numbers (${others.length})` }));
  more.addEventListener("toggle", () => more.children.length === 1 && more.append(grid(others)), { once: true });
  return section("curves", "Curves", grid(first), ...(others.length ? [more] : []));
}
