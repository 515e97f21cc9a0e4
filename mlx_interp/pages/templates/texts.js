// Texts in rows: filters by value, words that a row must hold; the choice stands in the address.
const at = name => data.columns.indexOf(name);
const form = byId("filters");
const choices = data.filters.map(name => {
  const values = [...new Set(data.rows.map(row => row[at(name)]))];
  const choice = el("select", { name }, el("option", { value: "*" }, "all"), ...values.map(value => el("option", { value }, value || "–")));
  choice.value = name in data.start ? data.start[name] : "*";
  form.append(el("label", {}, name + " ", choice));
  return choice;
});
const words = el("input", { name: "words", type: "search" }), count = el("output", { class: "faint" });
form.append(el("label", {}, "words ", words), count);
form.addEventListener("submit", event => event.preventDefault());

const rows = data.rows.map(row => el("tr", { tabindex: -1 }, ...row.map(text => el("td", {}, text))));
byId("texts").append(
  el("colgroup", {}, ...data.columns.map(name => el("col", { class: data.filters.includes(name) ? "narrow" : null }))),
  el("thead", {}, el("tr", {}, ...data.columns.map(name => el("th", { scope: "col" }, name)))),
  el("tbody", {}, ...rows));
byId("texts").addEventListener("keydown", event => {
  const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  let row = way && event.target.closest("tr");
  do row = row && row[way]; while (row && row.hidden);
  if (row) { event.preventDefault(); row.focus(); }
});

const fields = [...choices, words];
function show() {
  const sought = words.value.toLowerCase();
  let shownRows = 0;
  data.rows.forEach((row, index) => {
    const wanted = choices.every((choice, number) => choice.value === "*" || row[at(data.filters[number])] === choice.value)
      && row.some(text => text.toLowerCase().includes(sought));
    rows[index].hidden = !wanted;
    rows[index].tabIndex = wanted && shownRows === 0 ? 0 : -1;
    shownRows += wanted;
  });
  count.textContent = `${shownRows} of ${rows.length} rows`;
}
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  const field = fields.find(one => one.name === name);
  if (field) field.value = value;
}
for (const field of fields) field.addEventListener(field === words ? "input" : "change", () => {
  try { location.replace("#" + new URLSearchParams(fields.map(one => [one.name, one.value]))); } catch { /* a frame of a notebook has no address */ }
  show();
});
show();
