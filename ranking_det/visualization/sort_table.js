"use strict";
// Sort the rows of a table by the column whose button is clicked, undefined values last.
for (const table of document.querySelectorAll("table.sortable")) {
  const buttons = table.querySelectorAll("th button");
  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const header = button.parentElement;
      const column = Number(header.dataset.column);
      const descending = header.ariaSort ? header.ariaSort === "ascending" : "descending" in header.dataset;
      for (const other of buttons) other.parentElement.ariaSort = null;
      header.ariaSort = descending ? "descending" : "ascending";
      const value = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = column ? x - y : x.localeCompare(y);
        return descending ? -order : order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  }
}
