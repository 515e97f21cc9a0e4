// Circuit graph: nodes by layer and head, edges by score; a chosen node keeps its own edges.
const WIDTH = 96, ROW = 58, MARGIN = 36, MANY = 250;
const svg = (tag, values, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(values || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
let graph = null, places = new Map(), nodes = new Map(), edges = [], chosen = null;

// Edges into a head's query, key and value are drawn as one.
function merged(all) {
  const found = new Map();
  for (const edge of all) {
    const key = JSON.stringify([edge.source, edge.target]);
    found.set(key, { source: edge.source, target: edge.target, score: (found.get(key) || { score: 0 }).score + edge.score });
  }
  return [...found.values()].sort((a, b) => Math.abs(a.score) - Math.abs(b.score));
}
// Rows and columns that nobody stands in take no room.
const ranks = values => new Map([...new Set(values)].sort((a, b) => a - b).map((value, index) => [value, index]));

function draw(index) {
  graph = data.graphs[index];
  chosen = null;
  places = new Map(); nodes = new Map();
  if (!graph.nodes.length) { byId("drawing").replaceChildren(el("p", { class: "faint", style: "padding: 1rem" }, "No edges.")); edges = []; describe(); return; }
  const rows = ranks(graph.nodes.map(node => node.row)), columns = ranks(graph.nodes.map(node => node.column));
  const longest = Math.max(...graph.nodes.map(node => node.name.length)), half = Math.max(30, 4 * longest + 6), step = Math.max(WIDTH, 2 * half + 18);
  const height = 2 * MARGIN + (rows.size - 1) * ROW + 24, width = 2 * MARGIN + columns.size * step;
  for (const node of graph.nodes)
    places.set(node.name, [MARGIN + columns.get(node.column) * step + step / 2, height - MARGIN - 12 - rows.get(node.row) * ROW]);
  const all = merged(graph.edges), largest = Math.max(...all.map(edge => Math.abs(edge.score)), 1e-12);
  edges = all.map(edge => {
    const [x0, y0] = places.get(edge.source), [x1, y1] = places.get(edge.target), size = Math.abs(edge.score) / largest;
    const bend = x0 === x1 && Math.abs(y0 - y1) > ROW ? half + 24 : 0;
    const line = svg("path", {
      class: "edge" + (edge.score < 0 ? " below" : ""), d: `M${x0} ${y0} C${x0 + bend} ${y0 - (y0 - y1) / 3} ${x1 + bend} ${y1 + (y0 - y1) / 3} ${x1} ${y1}`,
      "stroke-width": (0.6 + 5.4 * size).toFixed(2), "stroke-opacity": (0.25 + 0.65 * size).toFixed(2),
    });
    line.addEventListener("mousemove", event => tip.show([el("b", {}, `${edge.source} → ${edge.target}`), " " + shown(edge.score)],
      { getBoundingClientRect: () => ({ left: event.clientX + 8, top: event.clientY, bottom: event.clientY + 8 }) }));
    line.addEventListener("mouseleave", tip.hide);
    return { ...edge, size, line };
  });
  for (const node of graph.nodes) {
    const [x, y] = places.get(node.name);
    const made = svg("g", { class: "node", role: "button", tabindex: -1, "aria-pressed": "false", "aria-label": `${node.name}, score ${shown(node.score)}` },
      svg("rect", { x: x - half, y: y - 12, width: 2 * half, height: 24, rx: 5 }), svg("text", { x, y: y + 4, "text-anchor": "middle" }, node.name));
    made.addEventListener("click", () => { made.focus(); choose(node.name); });
    made.addEventListener("focus", () => choose(node.name));
    made.addEventListener("keydown", event => step_from(node.name, event));
    nodes.set(node.name, made);
  }
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${graph.title}: ${graph.nodes.length} nodes, ${all.length} edges` },
    ...edges.map(edge => edge.line), ...nodes.values());
  byId("drawing").replaceChildren(drawing);
  nodes.get(graph.nodes[graph.nodes.length - 1].name).setAttribute("tabindex", 0);
  // Of very many edges the strongest are drawn at first; the slider brings the others.
  byId("least").value = all.length > MANY ? Math.ceil(100 * edges[all.length - MANY].size) : 0;
  shownEdges();
  describe();
}

// The nearest node in a direction: what lies more to the side counts double.
function step_from(name, event) {
  if (event.key === "Escape") { choose(null); return; }
  const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  if (!way) return;
  event.preventDefault();
  const [x, y] = places.get(name);
  let best = null, least = Infinity;
  for (const [other, [ox, oy]] of places) {
    const ahead = (ox - x) * way[0] + (oy - y) * way[1], aside = Math.abs((ox - x) * way[1]) + Math.abs((oy - y) * way[0]);
    if (ahead > 0 && ahead + 2 * aside < least) { best = other; least = ahead + 2 * aside; }
  }
  if (best) nodes.get(best).focus();
}

function choose(name) {
  chosen = name;
  for (const [other, node] of nodes) {
    node.setAttribute("aria-pressed", String(other === name));
    if (name !== null) node.setAttribute("tabindex", other === name ? 0 : -1);
  }
  shownEdges();
  describe();
}
function shownEdges() {
  const least = byId("least").value / 100;
  let count = 0;
  for (const edge of edges) {
    const kept = edge.size >= least;
    count += kept;
    edge.line.style.display = kept ? "" : "none";
    edge.line.classList.toggle("dim", chosen !== null && edge.source !== chosen && edge.target !== chosen);
  }
  byId("kept").textContent = `${byId("least").value} % of the largest: ${count} of ${edges.length}`;
}

function table(rows) {
  const stream = rows.some(edge => edge.stream !== null);
  const heads = ["from", "read by", "score", ...(stream ? ["by the stream alone"] : [])];
  return el("table", { class: "edges" }, el("thead", {}, el("tr", {}, ...heads.map(head => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map(edge => el("tr", {}, el("td", {}, edge.source), el("td", {}, edge.reads), el("td", {}, shown(edge.score)),
      stream ? el("td", {}, shown(edge.stream)) : null))));
}
const strongest = (all, count) => [...all].sort((a, b) => Math.abs(b.score) - Math.abs(a.score)).slice(0, count);
function describe() {
  const node = graph.nodes.find(one => one.name === chosen);
  if (!node) {
    byId("detail").replaceChildren(el("h2", {}, graph.title), el("p", { class: "faint" }, `${graph.nodes.length} nodes, ${graph.edges.length} edges`),
      el("h2", {}, "strongest edges"), table(strongest(graph.edges, 15)));
    return;
  }
  byId("detail").replaceChildren(el("h2", {}, node.name), el("p", { class: "number" }, shown(node.score)),
    el("h2", {}, "reads"), table(strongest(graph.edges.filter(edge => edge.target === chosen), 12)),
    el("h2", {}, "is read by"), table(strongest(graph.edges.filter(edge => edge.source === chosen), 12)));
}

byId("graph").append(...data.graphs.map((one, index) => el("option", { value: index }, one.title)));
byId("choice").hidden = data.graphs.length < 2;
byId("graph").addEventListener("change", () => draw(Number(byId("graph").value)));
byId("least").addEventListener("input", shownEdges);
if (data.graphs.length) draw(0); else byId("detail").textContent = "no graphs";
