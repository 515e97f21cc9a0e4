// What every page uses: its data, elements made without markup, numbers as text, the tip, light and dark.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);

// An element with attributes and children; strings become text, never markup.
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// A number in four digits, or a dash where there is none.
function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(3);
}
const percent = share => {
  const figure = (100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0);
  return (figure === "-0.0" ? "0.0" : figure) + " %";
};

// A token as it can be seen: its line breaks and tabs by signs, an empty one by a sign of its own.
const visible = token => token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^( +)$/, (_, spaces) => "␣".repeat(spaces.length)) || "∅";
// In a narrow cell: without the space that a word begins with.
const short = (token, letters = 12) => {
  const text = visible(token).trim() || visible(token);
  return text.length > letters ? text.slice(0, letters - 1) + "…" : text;
};
const quoted = token => "“" + visible(token) + "”";

// Tokens and their shares, as rows with bars. act: what a click on a token does.
function bars(pairs, { act, signed = false } = {}) {
  const largest = signed ? Math.max(...pairs.map(([, value]) => Math.abs(value)), 1e-12) : 1;
  const rows = pairs.map(([token, value]) => {
    const name = act ? el("button", { type: "button" }, quoted(token)) : quoted(token);
    if (act) name.addEventListener("click", () => act(token));
    const bar = el("i", { class: signed ? (value < 0 ? "below" : "above") : null });
    bar.style.width = (100 * Math.abs(value)) / largest + "%";
    const number = signed ? (value > 0 ? "+" : "") + shown(value) : percent(value);
    return el("tr", {}, el("td", {}, name), el("td", { class: "value" }, number), el("td", { class: "bar" }, bar));
  });
  return el("table", { class: "bars" }, el("tbody", {}, ...rows));
}

const tip = {
  show(content, near) {
    const box = byId("tip");
    box.replaceChildren(...content);
    box.hidden = false;
    const at = near.getBoundingClientRect(), size = box.getBoundingClientRect();
    const below = at.bottom + 6 + size.height < innerHeight;
    box.style.left = Math.max(4, Math.min(at.left, innerWidth - size.width - 8)) + "px";
    box.style.top = Math.max(4, below ? at.bottom + 6 : at.top - size.height - 6) + "px";
  },
  hide() { byId("tip").hidden = true; },
};
addEventListener("scroll", tip.hide, true);

const onTheme = [];
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : // Inside another page of ours (explore), which is the only one that is listened to.
addEventListener("message", event => {
  if (parent === window || event.source !== parent || typeof event.data.theme !== "string") return;
  document.documentElement.dataset.theme = event.data.theme;
  for (const redraw of onTheme) redraw();
});
matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  for (const redraw of onTheme) redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const redraw of onTheme) redraw(); });

// Keys that lead from one of several elements to the next; one of them is in the tab order.
function roving(elements, onfocus = () => {}) {
  elements.forEach((element, index) => {
    element.tabIndex = index === 0 ? 0 : -1;
    element.addEventListener("keydown", event => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const ends = { Home: 0, End: elements.length - 1 };
      const to = event.key in ends ? ends[event.key] : index + (steps[event.key] || 0);
      if (to === index || !elements[to]) return;
      event.preventDefault();
      elements[to].focus();
    });
    element.addEventListener("focus", () => {
      for (const other of elements) other.tabIndex = other === element ? 0 : -1;
      onfocus(element, index);
    });
  });
}
