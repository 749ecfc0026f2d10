"use strict";

// Tables of the class `sortable` are sorted by their headers and filtered by a text, and by the lists that belong to them.
// DataTables (vendor/) does that: it takes the tables as they stand in the page, so that without JavaScript they are
// simply read; it is one file without dependencies, under the MIT licence, and needs no network. A table that is folded
// away is taken when it is unfolded.

DataTable.ext.errMode = "throw";

const OPTIONS = {
  paging: false,
  autoWidth: false,
  order: [],
  layout: { topStart: "info", topEnd: "search", bottomStart: null, bottomEnd: null },
  language: {
    search: "Filter:",
    entries: { _: "rows", 1: "row" },
    info: "_TOTAL_ _ENTRIES-TOTAL_",
    infoEmpty: "No rows",
    infoFiltered: "of _MAX_",
    zeroRecords: "No row fits.",
    emptyTable: "No rows.",
  },
};

// The table alone scrolls sideways, so that its filter stays in view.
function scrollInside(outer, inner) {
  outer.classList.remove("scroll");
  inner.classList.add("scroll");
  for (const name of ["tabindex", "role", "aria-label"]) {
    inner.setAttribute(name, outer.getAttribute(name));
    outer.removeAttribute(name);
  }
}

function enliven(table) {
  const made = new DataTable(table, OPTIONS);
  scrollInside(table.closest(".scroll"), table.closest(".dt-layout-table"));
  for (const list of document.querySelectorAll(`select[data-table="${table.id}"]`)) {
    list.closest(".filters").hidden = false;
    list.addEventListener("change", () => {
      made.column(`${list.dataset.column}:name`).search(list.value, { exact: list.value !== "" }).draw();
    });
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  const folded = table.closest("details:not([open])");
  if (folded) folded.addEventListener("toggle", () => enliven(table), { once: true });
  else enliven(table);
}
