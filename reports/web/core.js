"use strict";
// The page's data and state, and functions that make numbers and elements. Text from outside goes into text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const points = new Map(data.points.map((point) => [point.key, point]));
const state = { front: 0, target: data.limits.target_ms, chosen: null, other: null, x: "latency", y: "accuracy", view: "near" };
const redraws = [];

const $ = (id) => document.getElementById(id);

/** Return a new element with attributes and children; strings become text nodes. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (name === "width") made.style.width = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function fill(place, ...children) {
  place.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** Change the state, and redraw what depends on it. */
function change(changes) {
  Object.assign(state, changes);
  for (const redraw of redraws) redraw(changes);
}

// Numbers in words. Minus signs are minus signs.
const signed = (text) => text.replace(/^-/, "−");
const known = (value) => value !== null && value !== undefined;
/** The metric's unit. A share is shown in per cent and called an accuracy; any other number is shown as it is. */
const UNIT = data.limits.unit, SHARE = UNIT === "%", METRIC = SHARE ? "accuracy" : "metric";
const with_unit = (text) => (UNIT && !SHARE ? `${text} ${UNIT}` : text);
/** Return four digits of a number, or all before its point. */
const plainly = (value) => signed(Math.abs(value) >= 1e3 && Math.abs(value) < 1e7 ? value.toFixed(0) : String(Number(value.toPrecision(4))));
const percent = (share, digits = 2) => (known(share) ? signed((100 * share).toFixed(digits)) + " %" : "–");
const metric = (value) => (!known(value) ? "–" : SHARE ? percent(value) : with_unit(plainly(value)));
const bare_change = (change) => (change > 0 ? "+" : change === 0 ? "±" : "") + (SHARE ? signed((100 * change).toFixed(2)) : plainly(change));
const change_of = (change) => (SHARE ? bare_change(change) + " points" : with_unit(bare_change(change)));
const ms = (value) => (known(value) ? value.toFixed(value >= 100 ? 1 : value >= 1 ? 2 : 3) + " ms" : "–");
const times = (value) => (known(value) ? value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2) + "×" : "–");
/** Return a gain over the unchanged network in words; a gain below 1 is a loss, such as slower. */
function gain_words(gain, better, worse, same) {
  if (!(gain > 0)) return "–";
  const text = times(Math.max(gain, 1 / gain));
  return text === "1.00×" ? same : `${text} ${gain > 1 ? better : worse}`;
}
const speed_words = (gain) => gain_words(gain, "faster", "slower", "as fast");
const size_words = (gain) => gain_words(gain, "smaller", "larger", "as large");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
function bytes(value) {
  if (!known(value)) return "–";
  return value >= 1e6 ? (value / 1e6).toFixed(2) + " MB" : (value / 1e3).toFixed(1) + " kB";
}
function count(value) {
  if (!known(value)) return "–";
  const [scale, unit] = value >= 1e9 ? [1e9, " G"] : value >= 1e6 ? [1e6, " M"] : value >= 1e3 ? [1e3, " k"] : [1, ""];
  return (value / scale).toFixed(scale === 1 ? 0 : 2) + unit;
}
function small(share) {
  if (!known(share)) return "–";
  if (share === 0) return "0 %";
  const value = 100 * share;
  return value < 0.001 ? "< 0.001 %" : Number(value.toPrecision(2)) + " %";
}
function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}
const range = (pair, show) => (pair ? `${show(pair[0])} to ${known(pair[1]) ? show(pair[1]) : "unknown"}` : "");

/** The quantities to plot and compare: how to get and show each, and which direction is better. */
const OBJECTIVES = {
  latency: { label: "Latency", axis: "latency in ms", get: (p) => p.latency?.median_ms, show: ms, better: "less", of: (p) => p.latency && [p.latency.low_ms, p.latency.high_ms] },
  accuracy: { label: "Validation", axis: `${METRIC}, validation data`, get: (p) => p.accuracy, show: metric, better: "more", of: (p) => p.accuracy_interval },
  test: { label: "Test", axis: `${METRIC}, test data`, get: (p) => p.test_accuracy, show: metric, better: "more", of: (p) => p.test_interval },
  size: { label: "Size", axis: "size in MB", get: (p) => p.size_bytes, show: bytes, better: "less", scale: 1e-6 },
  memory: { label: "Memory", axis: "memory in MB", get: (p) => p.memory_bytes, show: bytes, better: "less", scale: 1e-6 },
  energy: { label: "Energy", axis: "energy of a run in mJ", get: (p) => p.energy_mj, show: (v) => (known(v) ? v.toPrecision(3) + " mJ" : "–"), better: "less" },
  params: { label: "Weights", axis: "weights in millions", get: (p) => p.params, show: count, better: "less", scale: 1e-6 },
  macs: { label: "Multiply-adds", axis: "multiply-adds in millions", get: (p) => p.macs, show: count, better: "less", scale: 1e-6 },
};

const front = () => data.fronts[state.front];
const baseline = () => points.get(front().baseline);
/** The points of the selected deployment; with all together, each model's point on its worst device. */
const here = () => data.points.filter((point) => !point.runtime || (front().runtime ? point.runtime === front().runtime : point.decides));
const measured = (point) => known(point.accuracy);
const on_front = (point) => front().models.includes(point.key);

/** Return the kind of a point in a front, by which it is drawn and listed. */
function kind_of(point) {
  if (point.key === front().baseline || point.kind === "baseline") return "baseline";
  if (point.kind === "infeasible") return "infeasible";
  if (front().obvious.includes(point.key)) return "obvious";
  return on_front(point) ? "front" : "trial";
}

const KINDS = {
  front: "Pareto front", obvious: "reference baseline", baseline: "unchanged network", trial: "measured, not on the front", infeasible: "infeasible",
};

/** Return how many times faster than the interleaved unchanged network a model is. */
const faster = (point) => (point.latency?.ratio ? 1 / point.latency.ratio : null);

function title_of(point) {
  return point.kind === "baseline" ? "The unchanged network" : `Model ${point.id}`;
}

/** Return whether a point meets a target and every limit. */
function meets(point, target) {
  const limits = data.limits;
  const within = (value, most) => !known(most) || (known(value) && value <= most);
  return measured(point) && known(point.latency?.high_ms) && point.latency.high_ms <= target && within(point.size_bytes, limits.max_size_bytes)
    && within(point.memory_bytes, limits.max_memory_bytes) && within(point.energy_mj, limits.max_energy_mj)
    && (!known(limits.min_accuracy) || point.accuracy - (point.accuracy_error ?? 0) >= limits.min_accuracy);
}

/** Return whether the intervals of two latencies' ratios overlap. */
function tied(one, other) {
  const most = (p) => p.latency.most_ms ?? Infinity;
  return one.latency.least_ms <= most(other) && other.latency.least_ms <= most(one);
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";
}

/** Return the command that copies a model out of the run. */
const picks = (point) => command(`autocompress pick ${quoted(data.study.folder)} ${point.id} -o DIR`);

/** Return the command that resumes the run with a target; null if the run was started from Python. */
function resumes(target) {
  if (!data.study.command) return null;
  return command(data.study.command.replace(/--target-latency \S+/, `--target-latency ${target}ms`));
}

/** Return a command with a button that copies it. */
function command(line) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => {
    const done = () => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(line).then(done, () => {});
    else done();
  });
  const words = line.split(" ").flatMap((word) => [el("span", {}, word), " "]);  // each on one line, if there is room
  return el("div", { class: "command" }, el("code", {}, ...words.slice(0, -1)), copy);
}
