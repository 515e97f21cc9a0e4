// Logit lens: a row for each layer, the last on top; a column for each position.
const layers = data.layers.map((_, index) => index).reverse();
const reading = (row, column) => data.readings[layers[row]][column];
let followed = null;

const share = (row, column) => {
  if (followed === null) return reading(row, column)[0][1];
  const found = reading(row, column).find(([token]) => token === followed);
  return found ? found[1] : 0;
};
const where = (row, column) => `layer ${data.layers[layers[row]]}, position ${data.positions[column]} ${quoted(data.tokens[column])}`;

const grid = new Grid(byId("grid"), {
  name: "Likeliest token by layer and position",
  corner: "layer",
  rows: layers.map(index => String(data.layers[index])),
  columns: data.tokens.map(visible),
  fill(cell, row, column) {
    cell.textContent = short(reading(row, column)[0][0]);
    paint(cell, share(row, column), 1, false);
    cell.classList.toggle("marked", followed !== null && reading(row, column)[0][0] === followed);
  },
  label: (row, column) => `${where(row, column)}: ${reading(row, column).map(([token, p]) => `${visible(token)} ${percent(p)}`).join(", ")}`,
  hint: (row, column) => [el("b", {}, where(row, column)), bars(reading(row, column))],
  select(row, column) {
    byId("detail").replaceChildren(
      el("h2", {}, where(row, column)),
      bars(reading(row, column), { act: follow }),
      el("h2", {}, "prompt"),
      el("p", { class: "text" }, ...data.tokens.map((token, index) => index === column ? el("mark", {}, visible(token)) : token)),
    );
  },
  act: (row, column) => follow(reading(row, column)[0][0]),
});
// Inside another page (explore): it is told which cell was chosen, and whether by a click.
const tell = clicked => {
  if (parent !== window && grid.at) parent.postMessage({ cell: { layer: data.layers[layers[grid.at[0]]], position: data.positions[grid.at[1]], clicked } }, "*");
};
byId("grid").addEventListener("click", () => tell(true));
byId("grid").addEventListener("keydown", () => tell(false));

// Colours every cell by one token's probability, where it is among those that are kept.
function follow(token) {
  followed = token === followed ? null : token;
  const choice = byId("colour");
  for (const option of [...choice.options].slice(1)) option.remove();
  if (followed !== null) choice.append(el("option", { value: "followed", selected: true }, `probability of ${quoted(followed)}, among the top ${data.k}`));
  else choice.selectedIndex = 0;
  grid.refresh();
}
byId("colour").addEventListener("change", () => { if (!byId("colour").value) { followed = null; grid.refresh(); } });
addEventListener("keydown", event => { if (event.key === "Escape" && followed !== null) follow(followed); });
grid.mark(0, data.tokens.length - 1);
grid.select(0, data.tokens.length - 1);
