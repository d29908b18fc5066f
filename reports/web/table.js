// The table of models: the plot as text. It sorts, filters, and chooses a model.

/** Return a number without its unit, which is in the column's header. */
const bare = (text) => text.replace(/ ms$/, "");

const COLUMNS = [
  { id: "id", label: "Model", get: (p) => (p.kind === "baseline" ? "" : p.id), text: true },
  { id: "kind", label: "Kind", get: (p) => (p.kind === "baseline" ? "" : p.role || { front: "front", trial: "trial", infeasible: "infeasible" }[kind_of(p)]), text: true },
  { id: "runtime", label: "Runtime", get: (p) => p.runtime, text: true, several: true },
  { id: "latency", label: "ms", get: (p) => p.latency?.median_ms, show: (p) => bare(ms(p.latency?.median_ms)) },
  { id: "range", label: "95 % range", get: (p) => p.latency?.high_ms, show: (p) => (p.latency ? `${bare(ms(p.latency.low_ms))} to ${bare(ms(p.latency.high_ms))}` : "–"), quiet: true },
  { id: "speed", label: "Speed", get: faster, show: (p) => times(faster(p)) },
  { id: "accuracy", label: "Validation", get: (p) => p.accuracy, show: (p) => metric(p.accuracy) },
  { id: "test", label: "Test", get: (p) => p.test_accuracy, show: (p) => metric(p.test_accuracy) },
  { id: "size", label: "MB", get: (p) => p.size_bytes, show: (p) => (known(p.size_bytes) ? (p.size_bytes / 1e6).toFixed(p.size_bytes < 1e5 ? 4 : 2) : "–") },
  { id: "meets", label: "Meets", get: (p) => Number(meets(p, state.target)), show: (p) => (meets(p, state.target) ? "yes" : "no") },
  { id: "ended", label: "Ended", get: (p) => p.reason || (p.final ? "final evaluation" : p.rung), text: true, ends: true },
];
const PAGE = 100;
const listing = { sort: "latency", up: true, limit: PAGE };

function listed() {
  const which = $("which").value, words = $("find").value.trim().toLowerCase();
  const rows = here().filter((point) => {
    const kind = kind_of(point);
    if (which === "front" && (kind === "trial" || kind === "infeasible")) return false;
    if (which === "measured" && kind === "infeasible") return false;
    if ($("meeting").checked && !meets(point, state.target)) return false;
    return !words || [point.id, title_of(point), point.role, KINDS[kind], point.runtime, point.reason, point.rung].join(" ").toLowerCase().includes(words);
  });
  const { get } = COLUMNS.find((column) => column.id === listing.sort);
  const missing = (value) => !known(value) || value === "";
  return rows.sort((one, other) => {
    const [a, b] = [get(one), get(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === "string" ? a.localeCompare(b) : a - b;
    return listing.up ? order : -order;
  });
}

function table_row(point, columns) {
  const chosen = point.key === state.chosen;
  const choice = el("button", { type: "button", "aria-pressed": String(chosen), "aria-label": `Choose ${title_of(point)}` }, point.kind === "baseline" ? "unchanged" : point.id);
  const cells = columns.map((column, i) => {
    if (i === 0) return el("td", {}, choice);
    const shown = column.text ? column.get(point) : column.show(point);
    return el("td", { class: column.text ? "text" : column.quiet ? "range" : null, title: column.text && shown.length > 24 ? shown : null }, shown);
  });
  return el("tr", { class: chosen ? "is-chosen" : null, "data-key": point.key, on: { click: () => choose(point.key) } }, ...cells);
}

function table() {
  const columns = COLUMNS.filter((column) => (!column.several || data.fronts.length > 1) && (!column.ends || $("which").value === "all"));
  const held = document.activeElement?.closest?.("#table tr, #table th button")?.dataset;
  fill($("table").tHead, el("tr", {}, ...columns.map((column) => {
    const sorted = column.id === listing.sort ? (listing.up ? "ascending" : "descending") : "none";
    const sort = () => { listing.up = column.id === listing.sort ? !listing.up : true; listing.sort = column.id; table(); };
    return el("th", { scope: "col", "aria-sort": sorted, class: column.text ? "text" : null }, el("button", { type: "button", "data-sort": column.id, on: { click: sort } }, column.label));
  })));
  const rows = listed();
  fill($("table").tBodies[0], ...rows.slice(0, listing.limit).map((point) => table_row(point, columns)));
  $("count").textContent = plural(rows.length, "model");
  $("more").hidden = rows.length <= listing.limit;
  $("more").textContent = `Show ${Math.min(PAGE, rows.length - listing.limit)} more`;
  const again = held && [...document.querySelectorAll("#table tbody tr, #table th button")].find((each) => (held.key ? each.dataset.key === held.key : each.dataset.sort === held.sort));
  if (again) (again.querySelector("button") ?? again).focus({ preventScroll: true });
}

function table_controls() {
  for (const id of ["which", "find", "meeting"]) $(id).addEventListener("input", () => { listing.limit = PAGE; table(); });
  $("more").addEventListener("click", () => { listing.limit += PAGE; table(); });
  redraws.push(table);
}
