// The parts that do not depend on the chosen model: the network, the search, the measurements.

/** Return a table with numbers and bars. */
function bar_table(caption, note, rows) {
  const most = Math.max(...rows.map((row) => row.value), 1e-12);
  return el("table", { class: "bars" }, el("caption", {}, caption, note ? el("span", {}, note) : null), el("tbody", {}, ...rows.map((row) =>
    el("tr", {}, el("th", { scope: "row" }, row.label), el("td", {}, el("span", { class: "bar", width: `${(55 * row.value) / most}%`, "aria-hidden": "true" }), row.text)))));
}

const AXES = { activation: "Functions", depth: "Depth", pruning_ratio: "Pruning", bits: "Fewer bits", rank: "Low rank", sparsity: "Zeros", palette: "Palette", resolution: "Resolution" };

function level_text(axis, value) {
  if (!known(value)) return "";
  if (axis === "bits" || axis === "palette") return `${value} bit`;
  return typeof value === "number" ? percent(value, 0) : value;
}

function network() {
  const told = data.network;
  if (!told) { fill($("network-body"), el("p", { class: "quiet" }, "The network was not profiled yet when this page was written.")); return; }
  const axes = Object.keys(AXES).filter((axis) => told.sensitivity.some((each) => each.axis === axis));
  const by_name = new Map(told.sensitivity.map((each) => [`${each.axis}:${each.target}`, each]));
  const most = Math.max(...told.layers.map((layer) => layer.ms), 1e-9);
  const total = told.layers.reduce((sum, layer) => sum + layer.ms, told.other_ms) || 1;
  const scale = (damage) => (damage > 0 ? Math.max(0.02, Math.min(1, 1 + Math.log10(damage) / 5)) : 0);
  const cell = (axis, layer) => {
    const found = by_name.get(`${axis}:${axis === "depth" ? layer.branch : axis === "activation" ? layer.functions : axis === "resolution" ? layer.images : layer.name}`);
    const damages = (found?.damage ?? []).map((damage, level) => ({ damage, level })).filter((each, level) => level > 0 && known(each.damage));
    if (!damages.length) return el("td", {}, "–");
    const last = damages.at(-1), name = level_text(axis, found.values[last.level]);
    return el("td", { title: name ? `at ${name}` : "at its strongest" }, `${small(damages[0].damage)}${damages.length > 1 ? ` to ${small(last.damage)}` : ""}`, el("span", { class: "bar", width: `${100 * scale(last.damage)}%`, "aria-hidden": "true" }));
  };
  const rows = told.layers.map((layer) => el("tr", {}, el("th", { scope: "row" }, layer.name), el("td", {}, ms(layer.ms), el("span", { class: "bar", width: `${(100 * layer.ms) / most}%`, "aria-hidden": "true" })),
    el("td", {}, percent(layer.ms / total, 1)), el("td", {}, count(layer.params)), el("td", {}, count(layer.macs)), ...axes.map((axis) => cell(axis, layer))));
  const heads = ["Layer", "Time", "Share", "Weights", "Multiply-adds", ...axes.map((axis) => AXES[axis])];
  const notes = [];
  if (told.left_alone.length) notes.push(el("details", {}, el("summary", {}, `${plural(told.left_alone.length, "part")} left alone`), el("ul", { class: "notes" }, ...told.left_alone.map((each) => el("li", {}, el("code", {}, each.name), `: ${each.reason}`)))));
  if (told.dropped.length) notes.push(el("details", {}, el("summary", {}, `${plural(told.dropped.length, "level")} not offered, because they do not make their layer faster`), el("ul", { class: "notes" }, ...told.dropped.map((each) => el("li", {}, el("code", {}, each.target), ` ${AXES[each.axis] ?? each.axis} ${level_text(each.axis, each.level)}: ${ms(each.before_ms)} → ${ms(each.after_ms)}`)))));
  if (told.distance) notes.push(el("p", { class: "quiet" }, `Distance that students learn by from their teacher's outputs: ${told.distance}.`));
  fill($("network-body"),
    el("p", { class: "quiet" }, `The unchanged network takes ${ms(told.baseline_ms)}, between ${ms(told.baseline_low_ms)} and ${ms(told.baseline_high_ms)} during calibration; ${ms(told.other_ms)} of it belong to no layer.${known(told.floor_ms) ? ` The fastest network that the search can build takes ${ms(told.floor_ms)}.` : ""} ` +
      "The technique columns show how far the outputs move, as a share of their variance, if only that technique is applied to the layer, from its mildest to its strongest level, before any training. Their bars are logarithmic. Pruning is listed at the first layer of each group of layers that share channels, depth at the first layer of each residual branch, functions at the first layer before those that are exchanged together, resolution at the first layer of all."),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Layers: time and sensitivity" }, el("table", { class: "mesh" }, el("caption", { class: "hidden" }, "Time and sensitivity of each layer"), el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows))),
    ...notes);
}

function draw_course() {
  const told = data.search.hypervolume, over = $("over").value;
  const x = told.map((each) => (over === "trials" ? each.trials : each.seconds / 60));
  const layout = { margin: { l: 48, r: 8, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
    xaxis: { title: { text: over === "trials" ? "trials" : "minutes of trials" }, gridcolor: colour("grid"), zeroline: false, rangemode: "tozero", fixedrange: true, automargin: true },
    yaxis: { gridcolor: colour("grid"), zeroline: false, rangemode: "tozero", fixedrange: true, automargin: true } };
  Plotly.react($("course"), [{ type: "scatter", mode: told.length < 60 ? "lines+markers" : "lines", x, y: told.map((each) => each.value), line: { shape: "hv", color: colour("front"), width: 2 }, marker: { size: 5 }, hovertemplate: "%{y:.3f}<extra></extra>" }], layout, { displayModeBar: false, responsive: true });
}

function search() {
  const told = data.search, parts = [];
  const last = told.hypervolume.at(-1);
  if (told.hypervolume.length > 1) {
    const over = el("select", { id: "over" }, el("option", { value: "trials" }, "trials"), el("option", { value: "minutes" }, "minutes"));
    parts.push(el("figure", {}, el("h3", {}, "Hypervolume"), el("div", { class: "controls" }, el("label", {}, "Over ", over)),
      el("div", { id: "course", role: "img", "aria-label": `Hypervolume over trials: ${last.value.toFixed(3)} after ${plural(last.trials, "trial")}` }),
      el("figcaption", {}, `The share of the space between an ideal model and the limits that the front covers: ${last.value.toFixed(3)} after ${plural(last.trials, "trial")}${told.seconds ? ` and ${duration(told.seconds)} of trials` : ""}. If the line is flat at its end, more trials bring little.`)));
    over.addEventListener("change", draw_course);
  }
  if (told.ends.length) parts.push(el("div", {}, bar_table("Where trials ended", null, told.ends.map((end) => ({ label: end.label, value: end.trials, text: String(end.trials) }))),
    ...told.ends.filter((end) => end.reasons.length).map((end) => el("details", {}, el("summary", {}, "Why they could not be built, trained or measured"), el("ul", { class: "notes" }, ...end.reasons.map((each) => el("li", {}, `${each.trials} × ${each.reason}`)))))));
  const timed = told.rungs.filter((rung) => rung.seconds > 0);
  if (timed.length) parts.push(bar_table("Where the time went", "all trials, parallel ones added up", timed.map((rung) => ({ label: rung.rung, value: rung.seconds, text: duration(rung.seconds) }))));
  const important = data.importances;
  for (const [name, shares] of Object.entries(important.objectives)) {
    const hint = important.trials < 5 * important.choices ? `From ${plural(important.trials, "trial")} with ${plural(important.choices, "choice")}: only a hint.` : `Share of the variance that a random forest explains by each choice, from ${plural(important.trials, "trial")}.`;
    parts.push(bar_table(`What mattered for ${name === "accuracy" ? METRIC : name}`, hint, shares.choices.slice(0, 8).map((each) => ({ label: each.choice.replace(":", " · ").replace("pruning_ratio", "pruning"), value: each.share, text: percent(each.share, 0) }))));
  }
  fill($("search-body"), ...parts);
  if ($("course")) draw_course();
}

function measuring() {
  const told = data.protocol, clock = { cpu: "CPU time of the process", wall: "wall time", device: "the device's own events" }[told.clock] ?? told.clock;
  const facts = [["Number", told.percentile === 50 ? "median of the runs" : `${told.percentile}th percentile of the runs`], ["Clock", clock], ["Threads", told.threads], ["Batch", data.study.batch], ["Device", data.study.device],
    ["Recommended model", `${plural(told.runs, "run")} in ${plural(told.windows, "window")}`],
    [SHARE ? "Accuracy" : "Metric", data.scored.validation ? `${plural(data.scored.validation, "validation example")}${data.scored.test ? `, ${plural(data.scored.test, "test example")}` : ""}` : "the task's own metric"]].filter(([, text]) => known(text));
  const table_of = (caption, pairs) => el("div", {}, el("h3", {}, caption), el("dl", { class: "facts" }, ...pairs.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, String(text))])));
  fill($("measured-body"),
    el("div", {}, el("h3", {}, "The protocol"), el("ul", { class: "notes" },
      el("li", {}, "Each model ran in turns with the unchanged network, in a separate process, one measurement at a time on the device. The claim is the ratio; milliseconds are that ratio times the unchanged network's own."),
      el("li", {}, "The interval comes from the spread between windows of time, widened for variation between processes. A model meets the target if the upper end of its interval does; models whose intervals overlap are tied."),
      el("li", {}, `${SHARE ? "Accuracy" : "The metric"} is scored on the exported file in its runtime. The search looks at the validation data; the test data is scored once, at the end.`))),
    table_of("This run", facts),
    table_of("The environment", Object.entries(data.environment).map(([name, text]) => [name.replaceAll("_", " "), text])));
}
