// A grid of cells. Arrow keys move, Home and End go to the ends of a row, with Ctrl to those of the grid; Enter acts.
class Grid {
  // rows, columns: names, the first row on top. fill(td, row, column) writes a cell; label(row, column) is read out;
  // hint(row, column) -> what the tip shows; select(row, column) when the selection moves; act when it is entered.
  constructor(place, { name, corner, rows, columns, slanted, fill, label, hint, select = () => {}, act = () => {} }) {
    Object.assign(this, { rows, columns, fill, label, hint, select, act });
    const heads = columns.map(text => el("th", { scope: "col", class: slanted ? "slanted" : null, title: text }, el("span", {}, text)));
    this.cells = rows.map((_, row) => columns.map((_, column) =>
      el("td", { role: "gridcell", tabindex: -1, "data-row": row, "data-column": column })));
    const body = rows.map((text, row) => el("tr", { role: "row" }, el("th", { scope: "row" }, text), ...this.cells[row]));
    const table = el("table", { role: "grid", "aria-label": name, "aria-rowcount": rows.length, "aria-colcount": columns.length },
      el("thead", {}, el("tr", { role: "row" }, el("th", {}, corner || ""), ...heads)), el("tbody", {}, ...body));
    table.addEventListener("keydown", event => this.key(event));
    table.addEventListener("click", event => this.on(event, (row, column) => this.go(row, column)));
    table.addEventListener("dblclick", event => this.on(event, this.act));
    table.addEventListener("mouseover", event => this.on(event, (row, column) => this.point(row, column)));
    table.addEventListener("mouseleave", tip.hide);
    table.addEventListener("focusin", event => this.on(event, (row, column) => this.chosen(row, column)));
    place.replaceChildren(table);
    this.refresh();
  }
  on(event, then) {
    const cell = event.target.closest("td[data-row]");
    if (cell) then(Number(cell.dataset.row), Number(cell.dataset.column));
  }
  point(row, column) {
    const content = this.hint && this.hint(row, column);
    if (content) tip.show(content, this.cells[row][column]); else tip.hide();
  }
  // Writes all cells anew: after another panel or another measure was chosen.
  refresh() {
    tip.hide();
    this.cells.forEach((cells, row) => cells.forEach((cell, column) => {
      this.fill(cell, row, column);
      cell.setAttribute("aria-label", this.label(row, column));
    }));
    const [row, column] = this.at || [0, 0];
    if (this.cells[row] && this.cells[row][column]) this.cells[row][column].tabIndex = 0;
  }
  go(row, column) {
    row = Math.max(0, Math.min(row, this.rows.length - 1));
    column = Math.max(0, Math.min(column, this.columns.length - 1));
    this.cells[row][column].focus({ preventScroll: false });
  }
  chosen(row, column) {
    this.mark(row, column);
    this.select(row, column);
  }
  // The selection, without taking the focus there.
  mark(row, column) {
    const before = this.at && this.cells[this.at[0]][this.at[1]];
    if (before) { before.tabIndex = -1; before.setAttribute("aria-selected", "false"); }
    else this.cells[0][0].tabIndex = -1;
    this.at = [row, column];
    const cell = this.cells[row][column];
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
  }
  key(event) {
    if (!this.at || event.altKey || event.metaKey) return;
    const [row, column] = this.at, ends = event.ctrlKey;
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [ends ? 0 : row, 0], End: [ends ? this.rows.length - 1 : row, this.columns.length - 1],
      PageUp: [row - 5, column], PageDown: [row + 5, column],
    }[event.key];
    if (to) { event.preventDefault(); this.go(...to); }
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.act(row, column); }
    else if (event.key === "Escape") tip.hide();
  }
}

// Colours a cell: a share of `largest` by one hue, a signed value by two that part at zero; null is hatched.
function paint(cell, value, largest, signed) {
  cell.classList.remove("share", "below", "above", "strong", "absent");
  if (value === null || value === undefined) { cell.classList.add("absent"); return; }
  const far = Math.max(0, Math.min(1, Math.abs(value) / (largest || 1)));
  cell.style.setProperty("--t", far.toFixed(3));
  cell.classList.add(!signed ? "share" : value < 0 ? "below" : "above");
  cell.classList.toggle("strong", far > 0.72);
}
