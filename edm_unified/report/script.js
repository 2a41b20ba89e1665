// Comfort only: the page is complete without it. Sorts tables, ranks by a chosen metric, picks out a method.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const cell = (row, column) => row.children[column];

  // A number where the cell states one, text otherwise; cells without a value go last either way.
  const key = (td) => {
    const stated = td.dataset.sort ?? td.textContent.trim();
    if (stated === "" || stated === "–" || stated === "nan") return null;
    const number = stated === "Infinity" ? Infinity : Number(stated);
    return Number.isNaN(number) ? stated.toLowerCase() : number;
  };

  const sort = (table, column, direction) => {
    const head = table.tHead.rows[0], body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(cell(row, column)) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      if (typeof a.key === "string" || typeof b.key === "string")
        return direction * String(a.key).localeCompare(String(b.key), "en", { numeric: true });
      return a.key === b.key ? 0 : direction * (a.key < b.key ? -1 : 1);
    });
    body.append(...rows.map((r) => r.row));
    for (const th of head.cells) th.removeAttribute("aria-sort");
    cell(head, column).setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };

  // Ranks were computed with the page, one per metric: choosing a metric only shows them.
  const rank = (table, column) => {
    for (const row of table.tBodies[0].rows) cell(row, 0).textContent = cell(row, column).dataset.rank;
    const caption = table.caption.firstElementChild;
    caption.textContent = caption.textContent.replace(/ranked by .*/, "ranked by " + title(cell(table.tHead.rows[0], column)));
  };
  const chooser = document.getElementById("rank-by");
  const title = (th) => [...chooser.options].find((o) => o.value === th.dataset.metric).text;

  for (const table of all("table.ranked")) {
    [...table.tHead.rows[0].cells].forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.firstChild.textContent;
      th.replaceChildren(button, ...th.querySelectorAll("small"));
      button.addEventListener("click", () => {
        const direction = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        if (th.dataset.metric) rank(table, column);
        sort(table, column, direction);
      });
    });
  }
  if (chooser) {
    chooser.closest("[hidden]").hidden = false;
    chooser.addEventListener("change", () => {
      for (const table of all("table.ranked")) {
        const column = [...table.tHead.rows[0].cells].findIndex((th) => th.dataset.metric === chooser.value);
        rank(table, column);
        sort(table, column, 1);
        const th = cell(table.tHead.rows[0], column), box = table.parentNode;
        box.scrollLeft = Math.max(0, th.offsetLeft + th.offsetWidth - box.clientWidth);
      }
    });
  }

  // Picking a method in a legend dims all others in every figure; picking it again releases it.
  let picked = null;
  const pick = (method) => {
    picked = picked === method ? null : method;
    document.documentElement.classList.toggle("picking", picked !== null);
    for (const e of all(".m, tr[data-method]"))
      e.classList.toggle("on", picked !== null && (e.dataset.method === picked || e.classList.contains("m" + picked)));
    for (const b of all(".pick button")) b.setAttribute("aria-pressed", String(b.parentNode.dataset.method === picked));
  };
  for (const item of all(".legend li[data-method]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.classList.add("pick");
    item.append(button);
    button.addEventListener("click", () => pick(item.dataset.method));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && picked !== null) pick(picked);
  });
})();
