// Grid: numbers by row and column, several panels to choose from; the details of a cell beside it.
const [height, width] = [data.y_ticks.length, data.x_ticks.length];
const signed = data.low < 0, largest = Math.max(Math.abs(data.low), Math.abs(data.high));
let shownPanel = 0;
// The first row of numbers is the lowest of the picture.
const below = row => height - 1 - row;
const value = (row, column) => data.panels[shownPanel].values[below(row)][column];
const written = number => number === null ? "–" : data.percent ? percent(number) : shown(number);
const where = (row, column) => `${data.y_label || "row"} ${data.y_ticks[below(row)]}, ${data.x_label || "column"} ${data.x_ticks[column]}`;
const text = index => data.strings[index];

const grid = new Grid(byId("grid"), {
  name: data.value_label + " by " + (data.y_label || "row") + " and " + (data.x_label || "column"),
  corner: data.y_label,
  rows: data.y_ticks.map(visible).reverse(), columns: data.x_ticks.map(visible),
  slanted: data.x_ticks.some(name => name.length > 6) && width > 10,
  fill(cell, row, column) {
    const number = value(row, column);
    paint(cell, number, largest, signed);
    cell.textContent = number === null || width > 24 ? "" : data.percent ? String(Math.round(100 * number) || 0) : shown(number);
  },
  label: (row, column) => `${where(row, column)}: ${value(row, column) === null ? "no value" : written(value(row, column))}`,
  hint: (row, column) => [el("b", {}, where(row, column)), el("br"), `${data.value_label}: ${written(value(row, column))}`],
  select: chosen,
});

function chosen(row, column) {
  const parts = [el("h2", {}, where(row, column)), el("p", { class: "number" }, written(value(row, column)))];
  const found = data.details.length ? data.details[shownPanel][below(row)][column] : null;
  if (found) {
    if (found.numbers.length) parts.push(el("table", { class: "bars" }, el("tbody", {}, ...found.numbers.map(([name, number]) =>
      el("tr", {}, el("td", {}, text(name)), el("td", { class: "value" }, shown(number)))))));
    if (found.tokens.length) parts.push(el("h2", {}, "likeliest tokens"), bars(found.tokens.map(([token, share]) => [text(token), share])));
    for (const [name, index] of found.texts) parts.push(el("h2", {}, text(name)), el("p", { class: "text" }, text(index)));
  }
  for (const [name, whole] of Object.entries(data.texts)) parts.push(el("h2", {}, name), el("p", { class: "text" }, whole));
  byId("detail").replaceChildren(...parts);
}

byId("panel").append(...data.panels.map((panel, index) => el("option", { value: index }, panel.title || data.value_label)));
byId("choice").hidden = data.panels.length < 2;
byId("panel").addEventListener("change", () => { shownPanel = Number(byId("panel").value); grid.refresh(); chosen(...grid.at); });
byId("scale").className = signed ? "signed" : "share";
byId("low").textContent = written(signed ? -largest : 0);
byId("high").textContent = written(largest);
byId("what").textContent = data.value_label;
byId("axis").textContent = data.x_label;
byId("grid").classList.toggle("plain", width > 24);
grid.mark(0, 0);
chosen(0, 0);
