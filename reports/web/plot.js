// The Pareto plot. Shapes and colours both tell kinds apart; a point is chosen by a click or the arrow keys.

const SHAPES = { front: "circle", obvious: "square", baseline: "diamond", trial: "circle-open", infeasible: "x-thin-open" };
const SIZES = { front: 11, obvious: 10, baseline: 12, trial: 6, infeasible: 6 };
const ORDER = ["infeasible", "trial", "obvious", "baseline", "front"];
const shown = new Set(ORDER);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
/** Return text that Plotly shows as it is: it reads some tags and entities. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** What accuracies are multiplied with to be drawn. */
const SCALE = SHARE ? 100 : 1;

function value(point, name) {
  const objective = OBJECTIVES[name];
  const found = objective.get(point);
  return known(found) ? found * (name.match(/accuracy|test/) ? SCALE : objective.scale ?? 1) : null;
}

function bars(chosen, name) {
  const objective = OBJECTIVES[name];
  if (!objective.of) return undefined;
  const scale = name === "latency" ? 1 : SCALE;
  const ends = chosen.map((point) => objective.of(point));
  if (!ends.some(Boolean)) return undefined;
  const at = (i, end) => Math.abs(known(ends[i]?.[end]) ? scale * ends[i][end] - value(chosen[i], name) : 0);
  return { type: "data", symmetric: false, array: chosen.map((_, i) => at(i, 1)), arrayminus: chosen.map((_, i) => at(i, 0)), thickness: 1.2, width: 3 };
}

function words(point) {
  const lines = [`<b>${plain(title_of(point))}</b> ${plain(point.role || KINDS[kind_of(point)])}`];
  if (point.latency) lines.push(`${ms(point.latency.median_ms)} (${ms(point.latency.low_ms)} to ${ms(point.latency.high_ms)})`);
  if (measured(point)) lines.push(`${metric(point.accuracy)} validation${known(point.test_accuracy) ? `, ${metric(point.test_accuracy)} test` : ""}`);
  if (known(point.size_bytes)) lines.push(bytes(point.size_bytes));
  if (point.reason) lines.push(plain(point.reason.length > 60 ? point.reason.slice(0, 60) + "…" : point.reason));
  return lines.join("<br>");
}

function trace(kind, chosen) {
  const [x, y] = [state.x, state.y];
  const strong = kind !== "trial" && kind !== "infeasible";
  const both = chosen.filter((point) => known(value(point, x)) && known(value(point, y)));
  const style = { symbol: SHAPES[kind], size: SIZES[kind], color: colour(kind === "infeasible" ? "cut" : kind), opacity: strong ? 1 : chosen.length > 300 ? 0.4 : 0.75, line: { width: strong ? 0 : 1.2, color: colour(kind === "infeasible" ? "cut" : kind) } };
  const made = { type: "scatter", mode: "markers", name: KINDS[kind], marker: style, customdata: both.map((p) => p.key), x: both.map((p) => value(p, x)), y: both.map((p) => value(p, y)), text: both.map(words), hovertemplate: "%{text}<extra></extra>" };
  if (strong) {
    const tint = { color: style.color };
    Object.assign(made, { error_x: { ...bars(both, x), ...tint }, error_y: { ...bars(both, y), ...tint } });
  }
  return made;
}

/** Return points of which only one objective is known, at the edge of the plot on the side of the other. */
function rug(chosen) {
  const [x, y] = [state.x, state.y];
  const make = (list, along) => ({
    type: "scatter", mode: "markers", marker: { symbol: along === "x" ? "line-ns-open" : "line-ew-open", size: 7, color: colour("cut"), line: { width: 1, color: colour("cut") }, opacity: 0.8 },
    customdata: list.map((p) => p.key), text: list.map(words), hovertemplate: "%{text}<extra></extra>",
    x: along === "x" ? list.map((p) => value(p, x)) : list.map(() => 0.012), y: along === "x" ? list.map(() => 0.02) : list.map((p) => value(p, y)),
    ...(along === "x" ? { yaxis: "y2" } : { xaxis: "x2" }),
  });
  const only = (one, other) => chosen.filter((p) => known(value(p, one)) && !known(value(p, other)));
  return [make(only(x, y), "x"), make(only(y, x), "y")].filter((each) => each.customdata.length);
}

/** Return the line below which nothing was found: the points that no other beats in what is shown. */
function frontier(chosen) {
  const [x, y] = [state.x, state.y];
  const sign = (name) => (OBJECTIVES[name].better === "less" ? 1 : -1);
  const list = chosen.filter((p) => known(value(p, x)) && known(value(p, y)))
    .map((p) => ({ x: value(p, x), y: value(p, y) }))
    .sort((a, b) => sign(x) * (a.x - b.x) || sign(y) * (a.y - b.y));
  const kept = [];
  for (const p of list) if (!kept.length || sign(y) * p.y < sign(y) * kept.at(-1).y) kept.push(p);
  return { type: "scatter", mode: "lines", hoverinfo: "skip", x: kept.map((p) => p.x), y: kept.map((p) => p.y), line: { shape: "hv", width: 1.2, color: colour("front") }, opacity: 0.5 };
}

function ring(list, size, dash, name) {
  return { type: "scatter", mode: "markers", name, hoverinfo: "skip", x: list.map((p) => value(p, state.x)), y: list.map((p) => value(p, state.y)), marker: { symbol: dash, size, color: colour("ink"), line: { width: 1.8, color: colour("ink") } } };
}

function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.08 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

function axis(name, list) {
  const objective = OBJECTIVES[name];
  const values = list.map((p) => value(p, name)).filter(known);
  if (name === "latency") values.push(state.target);
  if (objective.better === "more") values.push(...list.map((p) => Math.min(SCALE * (objective.of(p)?.[1] ?? -Infinity), SCALE)).filter(Number.isFinite));
  let found = values.length ? extent(values) : [0, 1];
  if (objective.better === "less") found[0] = 0;
  if (logarithmic(name)) found = extent(values.filter((each) => each > 0).map(Math.log10));
  return { title: { text: objective.axis, font: { size: 13 }, standoff: 8 }, range: found, ...(logarithmic(name) ? { type: "log", tickvals: round_numbers(...found), ticktext: round_numbers(...found).map(String) } : { type: "linear", nticks: 8 }), gridcolor: colour("grid"), zeroline: false, linecolor: colour("rule"), ticksuffix: name.match(/accuracy|test/) && UNIT ? ` ${UNIT}` : "", automargin: true, fixedrange: matchMedia("(pointer: coarse)").matches };
}

/** Return whether a point's accuracy is near the baseline's: within the tenth that the hypervolume counts, and a little more. */
function near(point) {
  const base = baseline();
  return !known(point.accuracy) || point.accuracy >= base.accuracy - 0.12 * Math.abs(base.accuracy);
}

/** Return whether an objective is drawn on a logarithmic axis: costs may be, accuracies never. */
const logarithmic = (name) => state.log && OBJECTIVES[name].better === "less";

/** Return 1, 2, 5, 10, … between two powers of ten, every other one of many. */
function round_numbers(low, high) {
  const made = [];
  for (let power = Math.floor(low); power <= high; power++) for (const step of high - low > 3 ? [1] : [1, 2, 5]) made.push(Number(`${step}e${power}`));
  return made.filter((each) => Math.log10(each) >= low && Math.log10(each) <= high);
}

function lines() {
  const made = [], notes = [];
  const add = (name, at, text, dash) => {
    for (const [side, chosen] of [["x", state.x], ["y", state.y]]) {
      if (chosen !== name || !known(at)) continue;
      const place = logarithmic(name) ? Math.log10(at) : at;  // notes, unlike lines, want the logarithm
      made.push({ type: "line", layer: "above", line: { color: colour("ink"), width: 1.2, dash }, ...(side === "x" ? { x0: at, x1: at, yref: "paper", y0: 0, y1: 1 } : { y0: at, y1: at, xref: "paper", x0: 0, x1: 1 }) });
      notes.push({ text, showarrow: false, font: { size: 12, color: colour("ink") }, ...(side === "x" ? { x: place, yref: "paper", y: 1, xanchor: "center", yanchor: "bottom" } : { y: place, xref: "paper", x: 1, xanchor: "right", yanchor: "bottom" }) });
    }
  };
  add("latency", state.target, `target ${ms(state.target)}`, "dash");
  add("accuracy", known(data.limits.min_accuracy) ? SCALE * data.limits.min_accuracy : null, `least ${METRIC}`, "dot");
  add("size", known(data.limits.max_size_bytes) ? data.limits.max_size_bytes / 1e6 : null, "most bytes", "dot");
  add("memory", known(data.limits.max_memory_bytes) ? data.limits.max_memory_bytes / 1e6 : null, "most memory", "dot");
  add("energy", data.limits.max_energy_mj, "most energy", "dot");
  return { shapes: made, annotations: notes };
}

function draw() {
  const all = here(), by_kind = Object.fromEntries(ORDER.map((kind) => [kind, []]));
  for (const point of all) by_kind[kind_of(point)].push(point);
  const strong = [...by_kind.front, ...by_kind.obvious, ...by_kind.baseline];
  const chosen = points.get(state.chosen);
  const best = recommended(state.target).best;
  const within = state.view === "all" ? all : state.view === "front" ? strong : strong.filter((p) => near(p) || p === best || p === chosen);
  const beyond = by_kind.front.filter((p) => !within.includes(p)).length;
  $("beyond").textContent = beyond ? `${plural(beyond, "model")} of the front ${beyond === 1 ? "lies" : "lie"} beyond this view.` : "";
  const traces = [];
  for (const kind of ORDER) {
    if (!shown.has(kind)) continue;
    if (kind === "front") traces.push(frontier([...by_kind.front, ...by_kind.obvious.filter(on_front)]));
    if (kind === "infeasible") traces.push(...rug(by_kind.infeasible));
    traces.push(trace(kind, by_kind[kind]));
  }
  if (chosen) {
    if (chosen.latency) traces.push(ring(strong.filter((p) => p !== chosen && p.kind !== "baseline" && tied(p, chosen)), 17, "circle-open-dot", "tied with the chosen model"));
  }
  if (best) {
    traces.push({ ...ring([best], 17, "circle", "recommended"), marker: { symbol: "circle", size: 17, color: colour("front"), line: { width: 0 } } });
    traces.push({ ...ring([best], 11, "star", "recommended"), marker: { symbol: "star", size: 11, color: colour("ground"), line: { width: 0 } } });
  }
  if (chosen) traces.push(ring([chosen], 25, "circle-open", "chosen"));
  const text = colour("ink");
  const layout = {
    margin: { l: 56, r: 12, t: 24, b: 48 }, showlegend: false, hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: text }, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: text }, align: "left" },
    xaxis: axis(state.x, within), yaxis: axis(state.y, within),
    xaxis2: { overlaying: "x", range: [0, 1], visible: false, fixedrange: true }, yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    ...lines(),
  };
  return Plotly.react($("plot"), traces, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
}

/** Return the models that the arrow keys go through, from left to right. */
function walk() {
  const list = here().filter((p) => ["front", "obvious", "baseline"].includes(kind_of(p)) && known(value(p, state.x)));
  return list.sort((a, b) => value(a, state.x) - value(b, state.x));
}

function on_key(event) {
  const list = walk(), now = list.findIndex((p) => p.key === state.chosen);
  const to = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now < 0 ? 0 : now - 1, ArrowUp: now < 0 ? 0 : now - 1, Home: 0, End: list.length - 1 }[event.key];
  if (to === undefined || !list.length) return;
  event.preventDefault();
  choose(list[Math.min(Math.max(to, 0), list.length - 1)].key);
}

const MARKS = {
  front: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10", obvious: "M3.5 3.5h9v9h-9z", baseline: "M8 2l6 6l-6 6l-6-6z",
  trial: "M8 5a3 3 0 1 0 0 6a3 3 0 1 0 0-6", infeasible: "M5 5l6 6M11 5l-6 6",
};

function mark(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", MARKS[kind]);
  const open = kind === "trial" || kind === "infeasible", ink = `var(--${kind === "infeasible" ? "cut" : kind})`;
  path.style.fill = open ? "none" : ink;
  path.style.stroke = open ? ink : "none";
  path.style.strokeWidth = "1.5";
  svg.append(path);
  return svg;
}

function legend() {
  const present = new Set(here().map(kind_of));
  fill($("legend"), ...[...ORDER].reverse().filter((kind) => present.has(kind)).map((kind) => {
    const box = el("input", { type: "checkbox", checked: shown.has(kind) });
    box.addEventListener("change", () => { if (box.checked) shown.add(kind); else shown.delete(kind); draw(); });
    return el("label", {}, box, mark(kind), KINDS[kind]);
  }), el("span", { class: "quiet" }, "ring: chosen · ring with a dot: tied with it · star: recommended"));
}

function plot_controls() {
  const available = Object.keys(OBJECTIVES).filter((name) => data.points.some((p) => known(OBJECTIVES[name].get(p))));
  for (const side of ["x", "y"]) {
    const select = $(side);
    fill(select, ...available.map((name) => el("option", { value: name, selected: state[side] === name }, OBJECTIVES[name].label)));
    select.addEventListener("change", () => {
      const other = side === "x" ? "y" : "x";
      const swap = state[other] === select.value ? { [other]: state[side] } : {};
      change({ [side]: select.value, ...swap });
      $(other).value = state[other];
    });
  }
  $("log").checked = state.log;
  $("log").addEventListener("change", () => change({ log: $("log").checked }));
  $("view").addEventListener("change", () => change({ view: $("view").value }));
  $("plot").addEventListener("keydown", on_key);
  redraws.push((changes) => {
    if ("front" in changes) legend();
    draw();
    const point = points.get(state.chosen);
    $("plot").setAttribute("aria-label", `${OBJECTIVES[state.y].label} over ${OBJECTIVES[state.x].label}. ${point ? title_of(point) + " is chosen. " : ""}Arrow keys choose another model.`);
  });
}
