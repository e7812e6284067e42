"use strict";
(() => {
  const number = (text) => Number.parseFloat(text.replaceAll(",", ""));
  const word = (cell) => cell.textContent.trim();

  // Any column of a table can be sorted: numbers by value, words by letters, empty cells last.
  function sort(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => {
      const text = word(row.cells[column]);
      return { row, text, value: number(text) };
    });
    const words = heading.classList.contains("words");
    rows.sort((a, b) => {
      if (!a.text || !b.text) return (b.text ? 1 : 0) - (a.text ? 1 : 0);
      return sign * (words ? a.text.localeCompare(b.text) : a.value - b.value);
    });
    table.tBodies[0].append(...rows.map((each) => each.row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, column, heading));
    });
  }

  const [DIFFERENCE, STUDENT] = [1, 2]; // columns of the queries; the other systems follow
  const table = document.getElementById("query-table");
  if (!table) return;
  const element = (name) => document.getElementById(`query-${name}`);
  const [controls, search, against, outcome, count] =
    ["controls", "search", "against", "outcome", "count"].map(element);
  const equal = number(table.dataset.equal);
  const rows = [...table.tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, word(row.cells[0]).toLowerCase()]));

  function compare() {
    element("reference").textContent = against.selectedOptions[0].textContent;
    for (const row of rows) {
      const other = number(word(row.cells[Number(against.value)]));
      const difference = number(word(row.cells[STUDENT])) - other;
      const cell = row.cells[DIFFERENCE];
      cell.textContent = (difference < 0 ? "" : "+") + difference.toFixed(3);
      cell.className = difference > equal ? "won" : difference < -equal ? "lost" : "equal";
    }
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const kind = row.cells[DIFFERENCE].className;
      const fits = outcome.value === "all" || outcome.value === kind;
      row.hidden = !(fits && texts.get(row).includes(wanted));
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  }

  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", filter);
  outcome.addEventListener("change", filter);
  against.addEventListener("change", () => { compare(); filter(); });
  filter();
})();
