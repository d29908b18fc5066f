// What does not change with the chosen model: the network, how the search went, how it was measured.

/** Return a table whose numbers are bars too. */
function bar_table(caption, note, rows) {
  const most = Math.max(...rows.map((row) => row.value), 1e-12);
  return el("table", { class: "bars" }, el("caption", {}, caption, note ? el("span", {}, note) : null), el("tbody", {}, ...rows.map((row) =>
    el("tr", {}, el("th", { scope: "row" }, row.label), el("td", {}, el("span", { class: "bar", width: `${(55 * row.value) / most}%`, "aria-hidden": "true" }), row.text)))));
}

const AXES = { pruning_ratio: "Pruning", bits: "Fewer bits", rank: "Low rank", sparsity: "Zeros", palette: "Palette" };

function level_text(axis, value) {
  if (!known(value)) return "";
  if (axis === "bits" || axis === "palette") return `${value} bit`;
  return typeof value === "number" ? percent(value, 0) : value;
}

function network() {
  const told = data.network;
  if (!told) { fill($("network-body"), el("p", { class: "quiet" }, "The network had not been profiled when this was written.")); return; }
  const axes = Object.keys(AXES).filter((axis) => told.sensitivity.some((each) => each.axis === axis));
  const by_name = new Map(told.sensitivity.map((each) => [`${each.axis}:${each.target}`, each]));
  const most = Math.max(...told.layers.map((layer) => layer.ms), 1e-9);
  const total = told.layers.reduce((sum, layer) => sum + layer.ms, told.other_ms) || 1;
  const scale = (damage) => (damage > 0 ? Math.max(0.02, Math.min(1, 1 + Math.log10(damage) / 5)) : 0);
  const cell = (axis, layer) => {
    const found = by_name.get(`${axis}:${layer.name}`);
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
  if (told.dropped.length) notes.push(el("details", {}, el("summary", {}, `${plural(told.dropped.length, "level")} not offered, as they do not pay`), el("ul", { class: "notes" }, ...told.dropped.map((each) => el("li", {}, el("code", {}, each.target), ` ${AXES[each.axis] ?? each.axis} ${level_text(each.axis, each.level)}: ${ms(each.before_ms)} → ${ms(each.after_ms)}`)))));
  if (told.distance) notes.push(el("p", { class: "quiet" }, `What students learn from their teacher's outputs: ${told.distance}.`));
  fill($("network-body"),
    el("p", { class: "quiet" }, `The unchanged network takes ${ms(told.baseline_ms)}, between ${ms(told.baseline_low_ms)} and ${ms(told.baseline_high_ms)} while it was calibrated; ${ms(told.other_ms)} of it are no layer's.${known(told.floor_ms) ? ` The fastest network that the search can build takes ${ms(told.floor_ms)}.` : ""} ` +
      "Under a technique: by how much of their variance the outputs move when it alone is applied to that layer, from its mildest to its strongest level, before any training. The bars of those are logarithmic. Pruning is told at the first layer of those whose channels go together."),
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
      el("figcaption", {}, `How much of the room between an ideal model and the limits the front fills: ${last.value.toFixed(3)} after ${plural(last.trials, "trial")}${told.seconds ? ` and ${duration(told.seconds)} of trials` : ""}. A line that is flat at its end says that more trials bring little.`)));
    over.addEventListener("change", draw_course);
  }
  if (told.ends.length) parts.push(el("div", {}, bar_table("Where trials ended", null, told.ends.map((end) => ({ label: end.label, value: end.trials, text: String(end.trials) }))),
    ...told.ends.filter((end) => end.reasons.length).map((end) => el("details", {}, el("summary", {}, `Why they could not be built, trained or measured`), el("ul", { class: "notes" }, ...end.reasons.map((each) => el("li", {}, `${each.trials} × ${each.reason}`)))))));
  const timed = told.rungs.filter((rung) => rung.seconds > 0);
  if (timed.length) parts.push(bar_table("Where the time went", "of all trials, side by side ones added up", timed.map((rung) => ({ label: rung.rung, value: rung.seconds, text: duration(rung.seconds) }))));
  const important = data.importances;
  for (const [name, shares] of Object.entries(important.objectives)) {
    const hint = important.trials < 5 * important.choices ? `From ${plural(important.trials, "trial")} with ${plural(important.choices, "choice")}: a hint, no more.` : `Share of its spread that a forest explains by a choice, from ${plural(important.trials, "trial")}.`;
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
      el("li", {}, "Each model ran in turns with the unchanged network, in a process of its own, one at a time on the device. The claim is the ratio; milliseconds are that ratio times the unchanged network's own."),
      el("li", {}, "The interval is the one between windows of time, widened by what a process's own luck may be. A model meets the target when the upper end of its interval does; models whose intervals overlap are tied."),
      el("li", {}, `${SHARE ? "Accuracy" : "The metric"} is that of the exported file in its runtime. The search looks at the validation data; the test data is scored once, at the end.`))),
    table_of("This run", facts),
    table_of("The environment", Object.entries(data.environment).map(([name, text]) => [name.replaceAll("_", " "), text])));
}
