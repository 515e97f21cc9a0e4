// Steering: every text was written beforehand; the slider chooses among them.
const slider = byId("strength");
slider.max = data.strengths.length - 1;
slider.value = data.start;
byId("stops").append(...data.strengths.map((_, index) => el("option", { value: index })));
const strength = () => data.strengths[slider.value] + (data.unit ? " " + data.unit : "");

const rows = data.rows.map(row => {
  const steered = el("p", { class: "text", "aria-live": "polite" }), notes = el("p", { class: "faint", style: "margin: .4rem 0 0" });
  const right = el("h2", {}, "steered");
  byId("rows").append(el("section", { class: "pair", "aria-label": row.prompt },
    el("h3", {}, row.prompt),
    el("div", {}, el("h2", {}, "unsteered"), el("p", { class: "text" }, row.plain)),
    el("div", {}, right, steered, notes)));
  return { row, steered, notes, right };
});

// Where two texts part: the start of the first word that differs.
function parting(one, other) {
  let at = 0;
  while (at < one.length && at < other.length && one[at] === other[at]) at++;
  if (at === one.length && at === other.length) return at;
  const word = other.lastIndexOf(" ", at - 1);
  return at > 0 && /\S/.test(other[at - 1] || " ") ? word + 1 : at;
}
function show() {
  const index = Number(slider.value);
  byId("said").textContent = strength();
  slider.setAttribute("aria-valuetext", "strength " + strength());
  for (const { row, steered, notes, right } of rows) {
    const text = row.texts[index], at = parting(row.plain, text);
    steered.replaceChildren(text.slice(0, at), ...(at < text.length ? [el("mark", {}, text.slice(at))] : []));
    right.textContent = text === row.plain ? "steered: the same text" : "steered";
    notes.textContent = Object.entries(row.notes).filter(([, values]) => values[index] !== null && values[index] !== "")
      .map(([name, values]) => `${name} ${typeof values[index] === "number" ? shown(values[index]) : values[index]}`).join(" · ");
  }
}
slider.addEventListener("input", show);
show();
