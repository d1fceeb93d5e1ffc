"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = byId("canvas").namespaceURI;
const MANY = 350;  // nodes beyond which a graph opens with its kernels only

// ---- small tools ----

function fill(e, attrs, children) {
  for (const [k, v] of Object.entries(attrs || {})) k.startsWith("on") ? (e[k] = v) : e.setAttribute(k, v);
  for (const c of children) if (c != null) e.append(c);
  return e;
}
const el = (tag, attrs, ...children) => fill(document.createElement(tag), attrs, children);
const sv = (tag, attrs, ...children) => fill(document.createElementNS(SVG, tag), attrs, children);

function scaled(v, step, units) {
  let u = 0;
  while (v >= step && u + 1 < units.length) { v /= step; ++u; }
  return (Number.isInteger(v) ? v : v.toPrecision(3)) + " " + units[u];
}
const bytes = (v) => scaled(v, 1024, ["B", "KB", "MB", "GB"]);
const flops = (v) => scaled(v, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"]);
const time = (v) => scaled(v, 1000, ["ns", "µs", "ms", "s"]);
const colour = (kind) => `var(--${kind})`;

// ---- reading the data ----

function readPlan(p, label) {
  const t = D.texts;
  const nodes = p.nodes.map((r, i) => ({
    id: i, op: t[r[0]], line: t[r[1]], layout: t[r[2]], attrs: t[r[3]], kernel: r[4], inputs: r.slice(5), users: [] }));
  nodes.forEach((n) => n.inputs.forEach((i) => nodes[i].users.push(n.id)));
  const kernels = p.kernels.map((r, i) => ({
    id: i, kind: t[r[0]], form: t[r[1]], read: r[2], written: r[3], flops: r[4], predicted: r[5], measured: r[6],
    runs: r[7], nodes: r[8], body: r[9], refusals: [] }));
  const refusals = p.refusals.map((r) => ({ producer: r[0], consumer: r[1], rule: t[r[2]] }));
  for (const r of refusals)
    for (const n of [r.producer, r.consumer]) kernels[nodes[n].kernel].refusals.push(r);
  const buffers = p.buffers.map((b) => ({ node: b[0], bytes: b[1], offset: b[2], first: b[3], last: b[4] }));
  return { label, nodes, kernels, buffers, inputs: new Set(p.inputs), outputs: new Set(p.outputs),
    writes: new Set(p.writes), notes: p.notes, total: p.total, arena: p.arena_bytes, live: p.live_bytes };
}

const plans = [];
function collect(p, label) {
  const plan = readPlan(p, label);
  plans.push(plan);
  for (const k of plan.kernels) k.body.forEach((b) =>
    collect(b, `${label} › [${k.id}] ${b.role}, ${b.times} times`));
}
D.paths.forEach((p, i) => {
  if (p.plan) collect(p.plan, `path ${i}: ${p.ops} ops, ${p.hits} times, ${p.plan.kernels.length} kernels`);
});
let plan = null;

const cost = (k) => (k.runs ? k.measured : k.predicted);
const title = (n) => `%${n.id} ${n.op}`;

// ---- layered layout ----

// Gives items {w, h} with edges [from, to] places {x, y}: ranks by longest paths, order by the neighbours' means.
function layered(items, edges, gapX, gapY) {
  if (!items.length) return { w: 0, h: 0 };
  const n = items.length, out = items.map(() => []), into = items.map(() => []);
  for (const [a, b] of edges) if (a !== b) { out[a].push(b); into[b].push(a); }
  const left = into.map((l) => l.length), rank = new Array(n).fill(0), queue = [];
  left.forEach((l, i) => { if (!l) queue.push(i); });
  for (let q = 0; q < queue.length; ++q)
    for (const b of out[queue[q]]) {
      rank[b] = Math.max(rank[b], rank[queue[q]] + 1);
      if (--left[b] === 0) queue.push(b);
    }
  for (let q = queue.length - 1; q >= 0; --q) {  // what only feeds others stands right before them
    const i = queue[q];
    if (items[i].late && out[i].length) rank[i] = Math.min(...out[i].map((b) => rank[b])) - 1;
  }
  const least = Math.min(0, ...rank);
  const layers = [];
  for (let i = 0; i < n; ++i) (layers[rank[i] - least] ||= []).push(i);
  const rows = layers.filter((l) => l);
  const x = new Array(n).fill(0);
  const place = (row, wanted) => {
    row.sort((a, b) => wanted[a] - wanted[b] || a - b);
    const l = [], r = [];
    row.forEach((i, k) => {
      const w = wanted[i];
      l[k] = k ? Math.max(w, l[k - 1] + (items[row[k - 1]].w + items[i].w) / 2 + gapX) : w;
    });
    for (let k = row.length - 1; k >= 0; --k) {
      const i = row[k], next = row[k + 1];
      r[k] = next === undefined ? wanted[i] : Math.min(wanted[i], r[k + 1] - (items[i].w + items[next].w) / 2 - gapX);
    }
    row.forEach((i, k) => { x[i] = (l[k] + r[k]) / 2; });
  };
  rows.forEach((row) => place(row, new Array(n).fill(0)));
  const mean = (i, lists) => {
    const list = lists.flatMap((l) => l[i]);
    return list.length ? list.reduce((s, j) => s + x[j], 0) / list.length : x[i];
  };
  for (let sweep = 0; sweep < 8; ++sweep) {
    const down = sweep % 2 === 0, lists = sweep > 5 ? [into, out] : down ? [into] : [out];
    for (const row of down ? rows : [...rows].reverse()) {
      const wanted = {};
      row.forEach((i) => { wanted[i] = mean(i, lists); });
      place(row, wanted);
    }
  }
  let y = 0;
  for (const row of rows) {
    const h = Math.max(...row.map((i) => items[i].h));
    row.forEach((i) => { items[i].x = x[i] - items[i].w / 2; items[i].y = y + (h - items[i].h) / 2; });
    y += h + gapY;
  }
  const x0 = Math.min(...items.map((i) => i.x)), x1 = Math.max(...items.map((i) => i.x + i.w));
  items.forEach((i) => { i.x -= x0; });
  return { w: x1 - x0, h: y - gapY };
}

// ---- the graph ----

const CHAR = 6.7;
const chipSize = (n) => ({ w: CHAR * Math.max(title(n).length, n.layout.length) + 14, h: 34 });

// The kernel in whose box a node stands: views between nodes of one kernel stand there too. -1: none.
function homes() {
  const home = plan.nodes.map((n) => n.kernel), feeds = plan.nodes.map((n) => new Set(n.kernel >= 0 ? [n.kernel] : []));
  for (let i = plan.nodes.length - 1; i >= 0; --i)
    if (plan.nodes[i].kernel < 0) for (const u of plan.nodes[i].users) for (const k of feeds[u]) feeds[i].add(k);
  for (const n of plan.nodes)
    if (n.kernel < 0) for (const i of n.inputs) if (home[i] >= 0 && feeds[n.id].has(home[i])) home[n.id] = home[i];
  return home;
}

// Nodes that compute what a node reads, seen through views.
function sources(i, seen = new Set()) {
  const n = plan.nodes[i];
  if (n.kernel >= 0) return [i];
  if (seen.has(i)) return [];
  seen.add(i);
  return n.inputs.flatMap((j) => sources(j, seen));
}

function kernelTitle(k) {
  return `[${k.id}] ${k.kind} ${time(cost(k))}`;
}

// Boxes and the edges between them, as items with places.
function wholeLayout() {
  const home = homes(), items = [], itemOf = [];
  for (const k of plan.kernels) {
    const inner = plan.nodes.filter((n) => home[n.id] === k.id);
    const chips = inner.map((n) => ({ node: n, late: n.kernel < 0, ...chipSize(n) }));
    const at = new Map(inner.map((n, i) => [n.id, i]));
    const edges = inner.flatMap((n) => n.inputs.filter((i) => at.has(i)).map((i) => [at.get(i), at.get(n.id)]));
    const size = spread(chips, edges);
    inner.forEach((n) => { itemOf[n.id] = items.length; });
    items.push({ kernel: k, late: true, chips, inner: size.w, w: Math.max(size.w, kernelTitle(k).length * CHAR) + 20, h: size.h + 38 });
  }
  for (const n of plan.nodes)
    if (home[n.id] < 0) {
      itemOf[n.id] = items.length;
      items.push({ node: n, late: true, ...chipSize(n) });
    }
  const links = plan.nodes.flatMap((n) => n.inputs.map((i) => [i, n.id]));
  layered(items, links.map(([a, b]) => [itemOf[a], itemOf[b]]), 18, 44);
  const spots = [];
  for (const item of items) {
    if (item.node) spots[item.node.id] = item;
    for (const c of item.chips || []) {
      c.x += item.x + (item.w - item.inner) / 2;
      c.y += item.y + 28;
      spots[c.node.id] = c;
    }
  }
  return { items, links, spots };
}

// A few chips by layers; many that do not depend on each other in rows.
function spread(chips, edges) {
  if (edges.length || chips.length < 5) return layered(chips, edges, 10, 16);
  const across = Math.ceil(Math.sqrt(chips.length)), w = Math.max(...chips.map((c) => c.w)) + 10;
  chips.forEach((c, i) => { c.x = (i % across) * w; c.y = Math.floor(i / across) * 44; });
  return { w: across * w - 10, h: Math.ceil(chips.length / across) * 44 - 10 };
}

function kernelLayout() {
  const items = plan.kernels.map((k) => {
    const counts = new Map();
    k.nodes.forEach((i) => counts.set(plan.nodes[i].op, (counts.get(plan.nodes[i].op) || 0) + 1));
    const ops = [...counts].map(([op, n]) => (n > 1 ? `${op}×${n}` : op));
    const line = ops.slice(0, 4).join(" ") + (ops.length > 4 ? " …" : "");
    return { kernel: k, line, late: true, w: Math.max(line.length, kernelTitle(k).length) * CHAR + 20, h: 44 };
  });
  const seen = new Set(), links = [];
  for (const n of plan.nodes)
    if (n.kernel >= 0)
      for (const i of n.inputs.flatMap((j) => sources(j))) {
        const a = plan.nodes[i].kernel, key = a * plan.kernels.length + n.kernel;
        if (a !== n.kernel && !seen.has(key)) { seen.add(key); links.push([a, n.kernel]); }
      }
  if (items.length) layered(items, links, 18, 36);
  return { items, links, spots: items };
}

let edgesOf = new Map(), drawn = new Map(), pinned = false;

function chip(c) {
  const n = c.node;
  const what = plan.inputs.has(n.id) ? "input" : n.kernel < 0 ? "view" : "";
  const kept = plan.outputs.has(n.id) || plan.writes.has(n.id) ? " kept" : "";
  const g = sv("g", { class: `chip ${what}${kept}`, transform: `translate(${c.x},${c.y})`, "data-node": n.id },
    sv("rect", { width: c.w, height: c.h, rx: what === "input" ? 17 : 5 }),
    sv("text", { x: c.w / 2, y: 14, "text-anchor": "middle" }, title(n)),
    sv("text", { x: c.w / 2, y: 28, "text-anchor": "middle", class: "faint" }, n.layout));
  reacts(g, `n${n.id}`, () => nodeDetails(n));
  return g;
}

function box(item) {
  const k = item.kernel;
  const g = sv("g", { class: "box", "data-kernel": k.id },
    sv("rect", { x: item.x, y: item.y, width: item.w, height: item.h, rx: 8, stroke: colour(k.kind),
      ...(item.line ? { class: "full", style: `fill:${colour(k.kind)}` } : {}) }),
    sv("text", { x: item.x + 10, y: item.y + 17, style: `fill:${colour(k.kind)};font-weight:600` }, kernelTitle(k)));
  if (item.line) g.append(sv("text", { x: item.x + 10, y: item.y + 34, class: "faint" }, item.line));
  reacts(g, `k${k.id}`, () => kernelDetails(k));
  return g;
}

function reacts(g, key, details) {
  drawn.set(key, g);
  const show = () => { mark(key); byId("details").replaceChildren(...details()); };
  g.onpointerenter = () => { if (!pinned) show(); };
  g.onclick = (e) => { e.stopPropagation(); pinned = true; show(); };
}

function mark(key) {
  for (const e of document.querySelectorAll("#world .on")) e.classList.remove("on");
  byId("world").classList.toggle("near", key != null);
  if (key == null) return;
  drawn.get(key)?.classList.add("on");
  for (const e of edgesOf.get(key) || []) e.classList.add("on");
}

function drawGraph() {
  const collapsed = byId("collapse").checked, world = byId("world");
  const { items, links, spots } = collapsed ? kernelLayout() : wholeLayout();
  edgesOf = new Map(); drawn = new Map(); pinned = false;
  const boxes = sv("g"), edges = sv("g"), chips = sv("g");
  const attach = (key, e) => (edgesOf.get(key) || edgesOf.set(key, []).get(key)).push(e);
  for (const item of items) {
    if (item.kernel) boxes.append(box(item));
    if (item.node) chips.append(chip(item));
    (item.chips || []).forEach((c) => chips.append(chip(c)));
  }
  for (const [a, b] of links) {
    const s = spots[a], t = spots[b], x1 = s.x + s.w / 2, y1 = s.y + s.h, x2 = t.x + t.w / 2, y2 = t.y;
    const bend = Math.max(14, Math.min(80, Math.abs(y2 - y1) / 2));
    const e = sv("path", { class: "edge", d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` });
    edges.append(e);
    if (collapsed) { attach(`k${a}`, e); attach(`k${b}`, e); continue; }
    attach(`n${a}`, e); attach(`n${b}`, e);
    for (const k of new Set([plan.nodes[a].kernel, plan.nodes[b].kernel])) if (k >= 0) attach(`k${k}`, e);
  }
  world.replaceChildren(boxes, edges, chips);
  world.classList.remove("near");
  byId("details").replaceChildren(el("p", {}, "Point at a kernel or an op; click to keep it shown. " +
    "The wheel zooms, dragging moves. A bold outline: what the plan gives back."));
  fit(true);
}

// ---- details ----

function facts(rows) {
  return el("dl", {}, ...rows.filter((r) => r[1] !== "" && r[1] != null)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function nodeLink(i) {
  const n = plan.nodes[i];
  return `${title(n)} ${n.layout}${n.line ? " " + n.line : ""}`;
}

function nodeDetails(n) {
  const role = plan.inputs.has(n.id) ? "input" : plan.outputs.has(n.id) ? "result" : plan.writes.has(n.id) ? "write" : "";
  const parts = [el("h4", {}, title(n)), facts([["line", n.line], ["layout", n.layout], ["attrs", n.attrs],
    ["role", role], ["kernel", n.kernel < 0 ? "none: it names elements of others" : `[${n.kernel}]`]])];
  if (n.inputs.length) parts.push("reads", el("ul", {}, ...n.inputs.map((i) => el("li", {}, nodeLink(i)))));
  if (n.users.length) parts.push("read by", el("ul", {}, ...n.users.map((i) => el("li", {}, nodeLink(i)))));
  return n.kernel < 0 ? parts : [...parts, el("hr"), ...kernelDetails(plan.kernels[n.kernel])];
}

function kernelDetails(k) {
  const parts = [el("h4", { style: `color:${colour(k.kind)}` }, `kernel [${k.id}] ${k.kind}`), facts([["form", k.form],
    ["reads", bytes(k.read)], ["writes", bytes(k.written)], ["work", flops(k.flops)], ["predicted", time(k.predicted)],
    ["measured", k.runs ? `${time(k.measured)} (median of ${k.runs} runs)` : "not timed"],
    ["body", k.body.map((b) => `${b.role}, ${b.times} times: ${b.kernels.length} kernels`).join("; ")]])];
  parts.push("ops", el("ul", {}, ...k.nodes.map((i) => el("li", {}, nodeLink(i)))));
  if (k.refusals.length) {
    const pair = (r) => `${title(plan.nodes[r.producer])} [${plan.nodes[r.producer].kernel}] with ` +
      `${title(plan.nodes[r.consumer])} [${plan.nodes[r.consumer].kernel}]: ${r.rule}`;
    parts.push("not fused", el("ul", {}, ...k.refusals.map((r) => el("li", {}, pair(r)))));
  }
  return parts;
}

// ---- zoom and pan ----

let view = { x: 0, y: 0, s: 1 };
const apply = () => byId("world").setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.s})`);

// All of the graph; or, to start with, the top of it at a size that can be read.
function fit(start) {
  const b = byId("world").getBBox(), c = byId("canvas").getBoundingClientRect();
  if (!b.width) return;
  const s = Math.min(1.2, c.width / (b.width + 40), c.height / (b.height + 40)), readable = Math.max(s, 0.6);
  if (start !== true || readable === s) {
    view = { s, x: c.width / 2 - (b.x + b.width / 2) * s, y: c.height / 2 - (b.y + b.height / 2) * s };
  } else {
    const tops = [...drawn.values()].map((g) => g.getBBox()).filter((k) => k.width && k.y + k.height < c.height / readable);
    const wide = (b.width + 40) * readable > c.width && tops.length && byId("collapse").checked;
    const middle = wide ? tops.reduce((sum, k) => sum + k.x + k.width / 2, 0) / tops.length : b.x + b.width / 2;
    view = { s: readable, x: c.width / 2 - middle * readable, y: 20 - b.y * readable };
  }
  apply();
}

function zoomTo(key) {
  const g = drawn.get(key);
  if (!g) return;
  const b = g.getBBox(), c = byId("canvas").getBoundingClientRect(), s = Math.max(view.s, 0.8);
  view = { s, x: c.width / 2 - (b.x + b.width / 2) * s, y: c.height / 2 - (b.y + b.height / 2) * s };
  apply();
}

byId("canvas").addEventListener("wheel", (e) => {
  e.preventDefault();
  const c = byId("canvas").getBoundingClientRect(), f = Math.exp(-e.deltaY * 0.0015), px = e.clientX - c.left,
    py = e.clientY - c.top, s = Math.min(4, Math.max(0.01, view.s * f)), r = s / view.s;
  view = { s, x: px - (px - view.x) * r, y: py - (py - view.y) * r };
  apply();
}, { passive: false });
let drag = null;
byId("canvas").onpointerdown = (e) => { drag = { x: e.clientX - view.x, y: e.clientY - view.y }; };
window.onpointermove = (e) => { if (drag) { view.x = e.clientX - drag.x; view.y = e.clientY - drag.y; apply(); } };
window.onpointerup = () => { drag = null; };
byId("canvas").onclick = () => { pinned = false; mark(null); };
byId("fit").onclick = () => fit();
byId("collapse").onchange = drawGraph;
