// Features of a sparse autoencoder: a list, and the chosen one.
const named = one => `${one.feature}${one.title ? " " + one.title : ""}`;
const items = data.features.map(one => {
  const item = el("li", { role: "option", "aria-selected": "false" }, named(one),
    el("small", {}, `active on ${percent(one.n_active / Math.max(one.n_tokens, 1))} of tokens`));
  item.addEventListener("click", () => item.focus());
  byId("list").append(item);
  return item;
});

function histogram(one) {
  const tallest = Math.max(...one.histogram, 1), across = 11 * one.histogram.length;
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const set = (element, values) => { for (const [name, value] of Object.entries(values)) element.setAttribute(name, value); return element; };
  set(drawn, { width: across, height: 72, role: "img", "aria-label": `histogram of activations: ${one.histogram.join(", ")}` });
  one.histogram.forEach((count, index) => {
    const bar = set(document.createElementNS("http://www.w3.org/2000/svg", "rect"),
      { x: 11 * index, y: 70 - (68 * count) / tallest, width: 9, height: Math.max((68 * count) / tallest, count ? 1 : 0), rx: 1 });
    const low = (one.largest * index) / one.histogram.length, high = (one.largest * (index + 1)) / one.histogram.length;
    bar.addEventListener("mouseenter", () => tip.show([`${count} tokens between ${shown(low)} and ${shown(high)}`], bar));
    bar.addEventListener("mouseleave", tip.hide);
    drawn.append(bar);
  });
  return drawn;
}

function example(one, largest) {
  const tokens = one.tokens.map((token, index) => {
    const value = one.values[index], far = largest ? Math.min(Math.max(value / largest, 0), 1) : 0;
    const made = el("span", { class: "token share" + (far > 0.72 ? " strong" : ""), role: "button", "aria-label": `${visible(token)}: ${shown(value)}` },
      token.replace(/▁/g, " ").replace(/\n/g, "↵"));
    made.style.setProperty("--t", far.toFixed(3));
    const point = () => tip.show([el("b", {}, quoted(token)), " " + shown(value)], made);
    for (const event of ["mouseenter", "focus"]) made.addEventListener(event, point);
    for (const event of ["mouseleave", "blur"]) made.addEventListener(event, tip.hide);
    return made;
  });
  roving(tokens);
  return el("div", { class: "example" }, el("span", { class: "faint" }, shown(Math.max(...one.values))), el("p", {}, ...tokens));
}

function nearest(one) {
  return el("table", { class: "bars" }, el("tbody", {}, ...one.nearest.map(([feature, cosine]) => {
    const at = data.features.findIndex(other => other.feature === feature);
    const name = at < 0 ? String(feature) : el("button", { type: "button" }, named(data.features[at]));
    if (at >= 0) name.addEventListener("click", () => items[at].focus());
    return el("tr", {}, el("td", {}, name), el("td", { class: "value" }, cosine.toFixed(2)));
  })));
}

const effects = pairs => pairs.length ? bars(pairs, { signed: true }) : el("p", { class: "faint" }, "not as wide as the residual stream");
function choose(index) {
  const one = data.features[index];
  items.forEach((item, other) => item.setAttribute("aria-selected", String(other === index)));
  byId("detail").replaceChildren(
    el("p", { class: "number" }, `Feature ${named(one)}`),
    el("p", { class: "faint" }, `active on ${one.n_active} of ${one.n_tokens} tokens (${percent(one.n_active / Math.max(one.n_tokens, 1))}), at most ${shown(one.largest)}`),
    el("div", { class: "columns" },
      el("div", {}, el("h2", {}, "activations"), histogram(one), el("p", { class: "faint", style: "margin: 0" }, `0 to ${shown(one.largest)}`)),
      el("div", {}, el("h2", {}, "raises"), effects(one.raised)),
      el("div", {}, el("h2", {}, "lowers"), effects(one.lowered)),
      el("div", {}, el("h2", {}, "nearest by cosine"), nearest(one))),
    el("h2", {}, "top texts"),
    ...(one.examples.length ? one.examples.map(text => example(text, one.largest)) : [el("p", {}, "never active")]),
  );
}
roving(items, (_, index) => choose(index));

byId("find").addEventListener("input", () => {
  const words = byId("find").value.toLowerCase();
  let count = 0;
  data.features.forEach((one, index) => {
    items[index].hidden = !named(one).toLowerCase().includes(words);
    count += !items[index].hidden;
  });
  byId("count").textContent = words ? `${count} of ${items.length}` : "";
});
if (items.length) choose(0); else byId("detail").textContent = "no features";
