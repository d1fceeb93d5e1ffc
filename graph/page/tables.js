// ---- kernels ----

function bar(value, most, text, second) {
  const part = (v) => `width:${most ? Math.max(1, (100 * v) / most) : 0}%`;
  return el("td", { class: "number" }, text, el("div", { style: part(value) }),
    second == null ? null : el("div", { class: "measured", style: part(second) }));
}

function drawKernels() {
  const timed = plan.kernels.some((k) => k.runs);
  const most = (f) => Math.max(0, ...plan.kernels.map(f));
  const mostBytes = most((k) => k.read + k.written), mostFlops = most((k) => k.flops);
  const mostTime = Math.max(most((k) => k.predicted), most((k) => k.measured));
  const names = ["kernel", "form", "ops", "bytes", "work", timed ? "predicted / measured" : "predicted", "share"];
  const sum = plan.kernels.reduce((s, k) => s + cost(k), 0);
  const rows = [...plan.kernels].sort((a, b) => cost(b) - cost(a)).map((k) => {
    const ops = k.nodes.map((i) => plan.nodes[i]);
    const lines = [...new Set(ops.map((n) => n.line))].filter((l) => l);
    const text = ops.map((n) => n.op).join(" ") + (lines.length ? "  —  " + lines.join(" ") : "");
    const row = el("tr", {}, el("td", { class: "kind", style: `color:${colour(k.kind)}` }, `[${k.id}] ${k.kind}`),
      el("td", {}, k.form), el("td", { class: "ops", title: text }, text),
      bar(k.read + k.written, mostBytes, bytes(k.read + k.written)), bar(k.flops, mostFlops, flops(k.flops)),
      bar(k.predicted, mostTime, time(k.predicted) + (k.runs ? ` / ${time(k.measured)}` : ""), k.runs ? k.measured : null),
      el("td", { class: "number" }, sum ? (100 * cost(k) / sum).toFixed(1) + " %" : ""));
    row.onclick = () => {
      pinned = true;
      mark(`k${k.id}`);
      byId("details").replaceChildren(...kernelDetails(k));
      zoomTo(`k${k.id}`);
      byId("graph").scrollIntoView({ behavior: "smooth" });
    };
    return row;
  });
  byId("kernel-table").replaceChildren(el("thead", {}, el("tr", {}, ...names.map((n) => el("th", {}, n)))),
    el("tbody", {}, ...rows));
}

// ---- memory ----

function drawMemory() {
  const W = 1500, H = 360, left = 64, top = 12, right = 12, bottom = 26, steps = Math.max(1, plan.kernels.length);
  const svg = byId("arena"), size = Math.max(1, plan.arena);
  const x = (s) => left + ((W - left - right) * s) / steps, y = (o) => H - bottom - ((H - top - bottom) * o) / size;
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const parts = [];
  for (let i = 0; i <= 4; ++i) {
    const o = (size * i) / 4;
    parts.push(sv("line", { x1: left, x2: W - right, y1: y(o), y2: y(o), stroke: "var(--line)" }),
      sv("text", { x: left - 6, y: y(o) + 4, "text-anchor": "end", class: "faint" }, bytes(Math.round(o))));
  }
  const every = Math.max(1, Math.ceil(steps / 20));
  for (let s = 0; s < steps; s += every)
    parts.push(sv("text", { x: (x(s) + x(s + 1)) / 2, y: H - 8, "text-anchor": "middle", class: "faint" }, s));
  for (const b of plan.buffers) {
    const n = plan.nodes[b.node], r = sv("rect", { class: "buffer", x: x(b.first), width: x(b.last + 1) - x(b.first),
      y: y(b.offset + b.bytes), height: Math.max(1, y(b.offset) - y(b.offset + b.bytes)),
      fill: n.kernel < 0 ? "var(--copy)" : colour(plan.kernels[n.kernel].kind), "fill-opacity": 0.45 + 0.1 * (b.node % 5) });
    r.append(sv("title", {}, `${nodeLink(b.node)}\n${bytes(b.bytes)} at ${b.offset}, kernels ${b.first} to ${b.last}`));
    parts.push(r);
  }
  svg.replaceChildren(...parts);
  byId("memory-note").textContent = plan.buffers.length
    ? `${plan.buffers.length} buffers: kernels from left to right, offset upwards; the arena has ${bytes(plan.arena)}, ` +
      `at most ${bytes(plan.live)} are alive at once`
    : "no intermediate value needs memory of its own";
  svg.style.display = plan.buffers.length ? "" : "none";
}

// ---- traces ----

function drawTraces() {
  const lists = [byId("trie")], most = Math.max(1, ...D.paths.map((p) => p.hits));
  D.stretches.forEach((s, i) => {
    const text = s.ops === 1 ? s.first : `${s.ops} ops: ${s.first} … ${s.last}`;
    const item = el("li", {}, text), inner = el("ul");
    if (s.path != null) {
      const p = D.paths[s.path];
      const state = p.plan ? "" : p.refusal ? ` — no plan: ${p.refusal}` : " — not planned yet";
      const share = Math.round(20 + (80 * p.hits) / most);
      item.append(el("span", { class: "badge", style: `background:color-mix(in srgb, var(--bar) ${share}%, var(--panel))` },
        `path ${s.path}: ${p.ops} ops, ${p.hits} times`), state);
    }
    item.append(inner);
    lists[i + 1] = inner;
    lists[s.parent == null ? 0 : s.parent + 1].append(item);
  });
  byId("ends").replaceChildren(el("tbody", {}, ...D.ends.map((e) =>
    el("tr", {}, el("td", {}, e.reason), el("td", { class: "number" }, e.times)))));
  byId("events").replaceChildren(...D.events.map((e) => el("li", {}, e.text + (e.times > 1 ? ` (${e.times} times)` : ""))));
  if (!D.events.length) byId("events").replaceWith(el("p", {}, "None: every call matched its recording."));
}

// ---- the page ----

function choose(i) {
  plan = plans[i];
  const left = !plan.nodes.length && plan.kernels.length > 0;
  byId("collapse").checked = left || plan.nodes.length > MANY;
  byId("collapse").disabled = left;
  byId("graph-note").textContent = left ? "its nodes were left out to keep the page small"
    : [`${plan.nodes.length} nodes in ${plan.kernels.length} kernels`, ...plan.notes].join("; ");
  drawGraph();
  drawKernels();
  drawMemory();
}

function start() {
  const s = D.stats;
  byId("summary").textContent = `${s.calls} calls, ${s.ops} ops of which ${s.matched} matched and ${s.planned} ran by ` +
    `plans; ${s.plan_builds} plans built in ${s.compile_ms.toFixed(1)} ms, run ${s.plan_runs} times; ` +
    `${s.divergences} divergences`;
  for (const kind of ["gemm", "kernel", "rows", "columns", "map", "copy", "control"])
    byId("legend").append(el("span", {}, el("i", { style: `background:${colour(kind)}` }), kind));
  plans.forEach((p, i) => byId("plans").append(el("option", { value: i }, p.label)));
  byId("plans").onchange = (e) => choose(Number(e.target.value));
  drawTraces();
  if (!plans.length) {
    for (const id of ["graph", "kernels", "memory"]) byId(id).style.display = "none";
    return;
  }
  const hits = (p) => (p.label.includes("›") ? -1 : D.paths[Number(p.label.match(/\d+/)[0])].hits);
  const first = plans.reduce((best, p, i) => (hits(p) > hits(plans[best]) ? i : best), 0);
  byId("plans").value = first;
  choose(first);
}
start();
