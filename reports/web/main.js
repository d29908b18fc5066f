// Puts the page together.

function start() {
  headline();
  const latencies = here().filter((point) => ["front", "baseline"].includes(kind_of(point)) && meets(point, Infinity)).map((point) => point.latency.median_ms);
  state.log = Math.max(...latencies) > 8 * Math.min(...latencies);
  const runtime = $("runtime");
  fill(runtime, ...data.fronts.map((each, i) => el("option", { value: String(i) }, each.name || each.runtime || "all of them")));
  $("runtime-control").hidden = data.fronts.length < 2;
  runtime.addEventListener("change", () => {
    state.front = Number(runtime.value);
    change({ front: state.front, chosen: recommended(state.target).best?.key ?? front().baseline });
  });
  ask_controls();
  plot_controls();
  table_controls();
  model_controls();
  network();
  measuring();
  const named = decodeURIComponent(location.hash.slice(1));
  change({ front: 0, target: state.target, chosen: points.has(named) ? named : front().recommended ?? front().baseline });
  search();
  $("plot").on("plotly_click", (event) => { const key = event.points.find((each) => each.customdata)?.customdata; if (key) choose(key); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { draw(); if ($("course")) draw_course(); });
  document.documentElement.dataset.ready = "yes";
}

start();
