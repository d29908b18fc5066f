// The headline, and the answer to another target. All answers are measurements, not predictions.

/** Return the better of two models: the more accurate, the faster of equals. */
const better = (one, other) => other.accuracy - one.accuracy || one.latency.median_ms - other.latency.median_ms;

/** Return the fastest of a model and those that are as good. */
const fastest = (point, target) => (point?.as_good ?? []).map((key) => points.get(key)).filter((other) => other && meets(other, target))
  .reduce((one, other) => (other.latency.median_ms < one.latency.median_ms ? other : one), point);

/**
 * Return the recommended model for a target: one whose files were kept, otherwise any measured one.
 * It is the unchanged network if that meets the target and no model that does is better.
 */
function recommended(target) {
  if (target === data.limits.target_ms) return { best: points.get(front().recommended) ?? null, rival: null };
  const all = here().filter((point) => measured(point) && point.kind !== "baseline").sort(better);
  const kept = all.filter((point) => point.path);
  const fit = (pool) => pool.find((point) => meets(point, target)) ?? null;
  const top = fit(kept) ?? fit(all), unchanged = meets(baseline(), target) ? baseline() : null;
  if (!top) return { best: unchanged, rival: null };
  const least = fastest(top, target).accuracy;
  const pool = [...(top.path ? kept : all), baseline()].filter((point) => meets(point, target) && point.accuracy >= least);
  const best = pool.reduce((one, other) => (other.latency.median_ms < one.latency.median_ms ? other : one));
  const rival = fit(all);
  return { best, rival: rival && best && rival.accuracy > best.accuracy && !rival.path ? rival : null };
}

function compared(point) {
  const base = baseline();
  const parts = [speed_words(faster(point))];
  if (point.size_bytes) parts.push(size_words(base.size_bytes / point.size_bytes));
  parts.push(`${change_of(point.accuracy - base.accuracy)} of ${SHARE ? "accuracy" : "the metric"}`);
  return parts.join(", ");
}

function answer() {
  const target = state.target;
  const { best, rival } = recommended(target);
  const lines = [];
  if (best === baseline() && meets(best, target)) {
    lines.push(el("p", {}, el("strong", {}, `The unchanged network: ${ms(best.latency.median_ms)}, ${metric(best.accuracy)} on the validation data`), ". It meets the target, and no model found is better."));
  } else if (best && meets(best, target)) {
    lines.push(el("p", {}, el("strong", {}, `${title_of(best)}: ${ms(best.latency.median_ms)}, ${metric(best.accuracy)} on the validation data`), `, ${compared(best)}.`));
    if (data.state === "finished" && !best.path) {
      lines.push(el("p", {}, "It had no final evaluation. Resume the run with this target to give it one:"), resumes(target));
    }
    if (rival) lines.push(el("p", {}, `Trial ${rival.id} had ${metric(rival.accuracy)} at ${ms(rival.latency.median_ms)} in the search, but had no final evaluation.`));
    const next = here().filter((point) => measured(point) && point.kind !== "baseline" && !meets(point, target) && (point.path || !best.path) && point.accuracy > best.accuracy && meets(point, Infinity))
      .sort((one, other) => one.latency.high_ms - other.latency.high_ms)[0];
    if (next) lines.push(el("p", {}, `A better ${METRIC} begins at ${ms(next.latency.high_ms)}: model ${next.id} has ${metric(next.accuracy)}.`));
    if (meets(baseline(), target)) lines.push(el("p", {}, `The unchanged network meets the target too, with ${metric(baseline().accuracy)}.`));
  } else {
    const nearest = best ?? here().filter((p) => measured(p) && p.kind !== "baseline").sort((a, b) => a.latency.high_ms - b.latency.high_ms)[0];
    lines.push(el("p", {}, el("strong", {}, `No model found meets ${ms(target)}${data.limits.text.includes(",") ? " and the other limits" : ""}.`)));
    if (nearest) lines.push(el("p", {}, `The nearest is model ${nearest.id}: ${ms(nearest.latency.median_ms)}, at most ${ms(nearest.latency.high_ms)}, with ${metric(nearest.accuracy)}.`));
    if (known(data.network?.floor_ms)) lines.push(el("p", {}, `The fastest network that the search could build takes ${ms(data.network.floor_ms)}, whatever its accuracy.`));
  }
  fill($("answer"), ...lines);
}

// The slider's scale is logarithmic, from the floor to a little over the baseline.
function bounds() {
  const latencies = here().map((point) => point.latency?.median_ms).filter((value) => value > 0);
  const least = Math.min(...latencies, data.limits.target_ms);
  return [Math.log(least), Math.log(1.1 * Math.max(...latencies, data.limits.target_ms))];
}

function ask(target) {
  if (!(target > 0)) return;
  const { best } = recommended(target);
  change({ target, ...(best ? { chosen: best.key } : {}) });
}

function ask_controls() {
  const [number, slide] = [$("target"), $("slide")];
  const show = () => {
    const [low, high] = bounds();
    if (document.activeElement !== number) number.value = +state.target.toPrecision(4);
    slide.value = Math.round((1000 * (Math.log(state.target) - low)) / (high - low || 1));
    slide.setAttribute("aria-valuetext", ms(state.target));
    $("asked").hidden = state.target === data.limits.target_ms;
  };
  number.addEventListener("input", () => ask(Number(number.value)));
  slide.addEventListener("input", () => {
    const [low, high] = bounds();
    ask(+Math.exp(low + (slide.value / 1000) * (high - low)).toPrecision(3));
  });
  $("asked").addEventListener("click", () => { ask(data.limits.target_ms); number.focus(); });
  $("ask").addEventListener("submit", (event) => event.preventDefault());
  redraws.push((changes) => { if ("target" in changes || "front" in changes) { show(); answer(); } });
}

function figure(name, big, from, interval) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "big" }, big), el("dd", { class: "from" }, from), el("dd", { class: "quiet" }, interval || " "));
}

function headline() {
  const study = data.study, told = data.headline, run = data.fronts[0];
  const runtimes = data.fronts.length > 1 ? data.fronts.slice(1).map((each) => each.runtime).join(", ") : baseline().runtime;
  $("study").textContent = [study.name, runtimes, data.environment.cpu ?? data.environment.gpu, plural(data.protocol.threads, "thread"), data.written.slice(0, 10)].filter(Boolean).join(" · ");
  fill($("reasons"), ...run.reasons.map((reason) => el("li", {}, reason)));
  if (!told) {
    $("headline").textContent = `No candidate was measured; the limits are ${data.limits.text}`;
  } else {
    const best = points.get(told.model), base = points.get(run.baseline), on = told.accuracy_on;
    $("headline").textContent = told.meets ? `${title_of(best)} meets ${data.limits.text}${best === base ? ", and no model found is better" : ""}` : `Nothing meets ${data.limits.text}. ${title_of(best)} is nearest`;
    fill($("figures"),
      figure("Latency", speed_words(told.faster), `${ms(base.latency.median_ms)} → ${ms(best.latency.median_ms)}`, `95 % interval ${range(told.faster_interval, times)} the speed; up to ${ms(best.latency.high_ms)}`),
      figure("Size", size_words(told.smaller), `${bytes(base.size_bytes)} → ${bytes(best.size_bytes)}`, "of the served file"),
      figure(`${SHARE ? "Accuracy" : "Metric"}, ${on} data`, change_of(told.accuracy_change), `${metric(told.baseline_accuracy)} → ${metric(told.accuracy)}`, told.accuracy_change_interval ? `95 % interval ${range(told.accuracy_change_interval, bare_change)}` : ""));
    fill($("take"), best.path ? picks(best) : data.state === "running" ? null : resumes(data.limits.target_ms));
  }
  const items = data.warnings.map((warning) => el("li", {}, warning));
  $("doubts").hidden = !items.length;
  fill($("warnings"), ...items.slice(0, 2));
  if (items.length > 2) $("warnings").after(el("details", {}, el("summary", {}, `${items.length - 2} more`), el("ul", {}, ...items.slice(2))));
  $("foot").textContent = `autocompress ${data.autocompress} · written ${data.written.replace("T", " ").replace("+00:00", " UTC")} · ${data.shown ?? ""}report.json in the same folder has all data, pareto.csv the front, trials.csv every trial.`;
}
