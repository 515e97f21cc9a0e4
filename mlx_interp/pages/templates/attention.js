// Attention patterns: small ones of all heads, the chosen one in large, and what one token attends to as text.
const n = data.tokens.length, triangle = (n * (n + 1)) / 2;
const packed = Uint8Array.from(atob(data.patterns), sign => sign.charCodeAt(0));
const held = new DataView(packed.buffer);
const layers = data.layers.map((_, index) => index).reverse();
const share = (layer, head, query, key) =>
  key > query ? 0 : held.getUint16(2 * ((layer * data.n_heads + head) * triangle + (query * (query + 1)) / 2 + key), true) / 65535;
let layer = layers[0], head = 0;

const named = () => `layer ${data.layers[layer]}, head ${head}`;
// How much the queries give, on average, to the first token, to the one before them, and to themselves.
function habits(at, one) {
  const mean = (from, key) => {
    let total = 0;
    for (let query = from; query < n; query++) total += share(at, one, query, key(query));
    return n > from ? total / (n - from) : 0;
  };
  return `first token ${percent(mean(1, () => 0))}, previous ${percent(mean(1, query => query - 1))}, itself ${percent(mean(1, query => query))}`;
}

function draw(canvas, at, one) {
  const style = getComputedStyle(document.body), rgb = name => {
    const probe = el("span"); probe.style.color = `var(${name})`; document.body.append(probe);
    const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
    probe.remove();
    return found;
  };
  const [zero, full] = draw.colours || (draw.colours = [rgb("--zero"), rgb("--share")]);
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d"), picture = context.createImageData(n, n);
  for (let query = 0; query < n; query++) for (let key = 0; key <= query; key++) {
    // The root shows what is small: a head spreads its hundred percent over many tokens.
    const far = Math.sqrt(share(at, one, query, key));
    for (let part = 0; part < 3; part++) picture.data[4 * (query * n + key) + part] = zero[part] + far * (full[part] - zero[part]);
    picture.data[4 * (query * n + key) + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

const small = layers.map(() => Array.from({ length: data.n_heads }, () => el("canvas")));
const heads = new Grid(byId("heads"), {
  name: "Heads by layer", corner: "layer",
  rows: layers.map(index => String(data.layers[index])),
  columns: Array.from({ length: data.n_heads }, (_, index) => String(index)),
  fill(cell, row, column) {
    if (!cell.firstChild) cell.append(small[row][column]);
    draw(small[row][column], layers[row], column);
  },
  label: (row, column) => `layer ${data.layers[layers[row]]}, head ${column}: ${habits(layers[row], column)}`,
  hint: (row, column) => [el("b", {}, `layer ${data.layers[layers[row]]}, head ${column}`), el("br"), habits(layers[row], column)],
  select(row, column) { layer = layers[row]; head = column; large(); },
});

byId("pattern").style.setProperty("--side", Math.max(14, Math.min(30, Math.floor(640 / n))) + "px");
const pair = (query, key) => `${quoted(data.tokens[query])} attends to ${quoted(data.tokens[key])}`;
const pattern = new Grid(byId("pattern"), {
  name: "Attention of each query to each key", corner: "query \\ key", slanted: true,
  rows: data.tokens.map(visible), columns: data.tokens.map(visible),
  fill(cell, query, key) {
    const value = share(layer, head, query, key);
    if (key > query) cell.classList.add("later"); else paint(cell, value, 1, false);
    cell.textContent = key <= query && n <= 24 && value >= 0.005 ? String(Math.round(100 * value)) : "";
  },
  label: (query, key) => key > query ? `${quoted(data.tokens[query])} comes before ${quoted(data.tokens[key])}`
    : `${pair(query, key)}: ${percent(share(layer, head, query, key))}`,
  hint: (query, key) => key > query ? null : [el("b", {}, pair(query, key)), el("br"), `${percent(share(layer, head, query, key))}; positions ${query} and ${key}, ${named()}`],
  select: attended,
});

function large() {
  byId("which").textContent = named();
  byId("summary").textContent = "mean: " + habits(layer, head);
  pattern.refresh();
  attended(...pattern.at);
}
function attended(query, key) {
  const all = data.tokens.slice(0, query + 1).map((token, index) => [token, share(layer, head, query, index)]);
  const text = data.tokens.map((token, index) => {
    const made = el("span", { class: "token share", title: index <= query ? percent(all[index][1]) : null }, token.replace(/\n/g, "↵"));
    made.style.setProperty("--t", index <= query ? all[index][1].toFixed(3) : 0);
    if (index <= query && all[index][1] > 0.72) made.classList.add("strong");
    if (index === query) made.style.boxShadow = "inset 0 -2px var(--focus)";
    return made;
  });
  const strongest = all.map(([token, value], index) => [`${token}`, value, index]).sort((a, b) => b[1] - a[1]).slice(0, 6);
  byId("detail").replaceChildren(
    el("h2", {}, `${named()}: ${key <= query ? pair(query, key) + ", " + percent(share(layer, head, query, key)) : "no attention to later tokens"}`),
    el("p", { class: "text" }, ...text),
    el("h2", {}, `${quoted(data.tokens[query])} (position ${query}) attends most to`),
    bars(strongest.map(([token, value, index]) => [`${token} ‹${index}›`, value])),
  );
}
onTheme.push(() => { draw.colours = null; heads.refresh(); });
pattern.mark(n - 1, 0);
heads.mark(0, 0);
large();
