// The chosen model: its numbers compared with another's, how it was made, and the changes to each layer.

function differences(point, other) {
  const rows = [];
  for (const [name, objective] of Object.entries(OBJECTIVES)) {
    const [now, then] = [objective.get(point), objective.get(other)];
    if (!known(now) && !known(then)) continue;
    let change = "–";
    if (known(now) && known(then)) {
      if (name === "accuracy" || name === "test") change = change_of(now - then);
      else change = now === then ? "same" : now < then ? `÷ ${(then / now).toFixed(2)}` : `× ${(now / then).toFixed(2)}`;
    }
    rows.push(el("tr", {}, el("th", { scope: "row" }, objective.label), el("td", {}, objective.show(now)), el("td", {}, objective.show(then)), el("td", {}, change)));
  }
  return el("table", { class: "pairs" },
    el("caption", { class: "hidden" }, "The chosen model and the other model"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "hidden" }, "Measure")), el("th", { scope: "col" }, "this"), el("th", { scope: "col" }, other.kind === "baseline" ? "unchanged" : other.id), el("th", { scope: "col" }, "change"))),
    el("tbody", {}, ...rows));
}

/** Describe the changes to a layer, in a few words each. */
function done(change) {
  if (!change) return [];
  const said = [];
  if (known(change.resolution)) said.push(`${percent(change.resolution, 0)} of the resolution`);
  if (change.activation) said.push(`cheaper functions (${change.activation})`);
  if (change.depth) said.push("gone with its branch");
  if (change.pruned) said.push(`−${percent(change.pruned, 0)} channels`);
  if (change.pruned_inputs) said.push(`−${percent(change.pruned_inputs, 0)} inputs`);
  if (known(change.bits)) said.push(`${change.bits} bit`);
  if (known(change.rank)) said.push(`rank ${percent(change.rank, 0)}`);
  if (known(change.sparsity)) said.push(typeof change.sparsity === "number" ? `${percent(change.sparsity, 0)} zeros` : `${change.sparsity} zeros`);
  if (known(change.palette)) said.push(`palette of ${change.palette} bit`);
  return said;
}

function layers_of(point) {
  const changes = point.kind === "baseline" ? {} : point.layers;
  if (!changes || !data.network) return null;
  return new Map(data.network.layers.map((layer) => [layer.name, changes[layer.name] ?? {}]));
}

function layer_row(layer, most, now, then, comparing) {
  const here_ms = now.ms ?? layer.ms, there_ms = then.ms ?? layer.ms;
  const width = (value) => `${(100 * value) / most}%`;
  const [did, other] = [done(now), done(then)];
  const chips = el("div", { class: "chips" }, did.length ? el("b", {}, did.join(" · ")) : "unchanged");
  if (now.written) chips.append(el("span", {}, `in the file: ${now.written}`));
  if (now.damage) chips.append(el("span", {}, `moves outputs ${small(now.damage)}`));
  if (comparing && did.join() !== other.join()) chips.append(el("span", { class: "other" }, `other: ${other.join(" · ") || "unchanged"}`));
  const track = el("span", { class: "track", "aria-hidden": "true" }, el("i", { class: "was", width: width(layer.ms) }), el("i", { class: "now", width: width(here_ms) }), comparing ? el("i", { class: "then", width: width(there_ms) }) : null);
  const text = comparing ? `${ms(there_ms).replace(" ms", "")} → ${ms(here_ms)}` : here_ms === layer.ms ? ms(layer.ms) : `${ms(layer.ms).replace(" ms", "")} → ${ms(here_ms)}`;
  return el("tr", {}, el("th", { scope: "row" }, layer.name), el("td", { class: "ms" }, text), el("td", { class: "did" }, track, chips));
}

function layers(point, other) {
  const [now, then] = [layers_of(point), layers_of(other)];
  if (!now || !then) return [];
  const comparing = other.kind !== "baseline";
  const most = Math.max(...data.network.layers.map((layer) => layer.ms), 1e-9);
  const total = data.network.layers.reduce((sum, layer) => sum + (now.get(layer.name).ms ?? layer.ms), data.network.other_ms);
  const damage = [...now.values()].reduce((sum, change) => sum + (change.damage ?? 0), 0);
  const body = data.network.layers.map((layer) => layer_row(layer, most, now.get(layer.name), then.get(layer.name), comparing));
  const changed = [...now.values()].filter((change) => Object.keys(change).length).length;
  return [el("details", { open: open_layers() }, el("summary", {}, "Layer by layer"),
    el("p", { class: "quiet" }, `${changed} of ${plural(body.length, "layer")} changed. Grey: time in the unchanged network; blue: estimated now${comparing ? "; upright mark: the other model" : ""}. ` +
      `Estimates come from the profile, one choice at a time: ${ms(total)} in total, ${ms(point.latency?.median_ms)} measured${damage ? `; outputs move by ${small(damage)} of their variance before training` : ""}.`),
    el("table", { class: "layers" }, el("caption", { class: "hidden" }, "Changes to each layer"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Layer"), el("th", { scope: "col" }, "Time"), el("th", { scope: "col" }, "Changes"))), el("tbody", {}, ...body)))];
}

/** Return whether the layers are open: as before, and at first if there is room. */
function open_layers() {
  return $("chosen-body").querySelector("details")?.open ?? !matchMedia("(max-width: 62rem)").matches;
}

function made(point) {
  const facts = [];
  for (const [axis, settings] of Object.entries(point.settings ?? {})) {
    facts.push([axis, Object.entries(settings).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")]);
  }
  if (point.epochs) facts.push(["training", `${point.epochs} passes over the data`]);
  if (known(point.one_shot_accuracy)) facts.push(["before training", metric(point.one_shot_accuracy)]);
  if (known(point.low_precision)) facts.push(["low precision", `${percent(point.low_precision, 0)} of the compute`]);
  if (point.latency) facts.push(["timed", `${plural(point.latency.runs, "run")} in ${plural(point.latency.windows, "window")}${point.latency.processes ? `, ${plural(point.latency.processes, "process").replace("processs", "processes")}` : ""}${point.latency.bridged ? ", against a bridge" : ""}`]);
  if (known(point.agreement)) facts.push(["as in PyTorch", `${percent(point.agreement, 1)} of the classes`]);
  if (point.path) facts.push(["files", `${point.path}/${point.file}`]);
  if (!facts.length) return [];
  return [el("h3", {}, "How it was made"), el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, String(text))]))];
}

function chosen_model() {
  const point = points.get(state.chosen);
  if (!point) return;
  const star = point === recommended(state.target).best ? ", recommended for " + ms(state.target) : "";
  const verdict = measured(point) && point.kind !== "baseline" ? (meets(point, state.target) ? "meets the target" : "misses the target") : "";
  $("chosen-title").textContent = title_of(point);
  $("chosen-kind").textContent = [point.role && point.kind !== "baseline" ? point.role : KINDS[kind_of(point)] + star, data.fronts.length > 1 ? point.runtime : "", verdict].filter(Boolean).join(" · ");
  const options = here().filter((p) => p !== point && ["baseline", "front", "obvious"].includes(kind_of(p)));
  const other = options.find((p) => p.key === state.other) ?? (point === baseline() ? options.find((p) => p.key === front().recommended) ?? options[0] : baseline());
  fill($("other"), ...options.map((p) => el("option", { value: p.key, selected: p === other }, p.kind === "baseline" ? "the unchanged network" : `${p.id} ${p.role}`.trim() + (data.fronts.length > 1 ? ` on ${p.runtime}` : ""))));
  $("other").closest(".controls").hidden = !options.length;
  fill($("chosen-body"),
    point.reason ? el("p", {}, `${point.latency && point.accuracy !== null ? "Its training did not finish" : `It stopped at “${point.rung}”`}: ${point.reason}`) : null,
    other ? differences(point, other) : null,
    point.warnings.length ? el("ul", { class: "notes" }, ...point.warnings.map((warning) => el("li", {}, warning))) : null,
    point.path && point.kind !== "baseline" ? picks(point) : null,
    !point.path && measured(point) && data.state === "finished" ? el("p", { class: "quiet" }, "Its files were not kept, because it had no final evaluation.") : null,
    ...(other ? layers(point, other) : []), ...made(point));
}

/** Choose a model. */
function choose(key) {
  change({ chosen: key });
  history.replaceState(null, "", `#${encodeURIComponent(key)}`);
}

function model_controls() {
  $("other").addEventListener("change", () => change({ other: $("other").value }));
  redraws.push(chosen_model);
}
