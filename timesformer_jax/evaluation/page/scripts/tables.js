"use strict";
// Search and sorting of tables and examples, and the section that is in view.
const REPORT = JSON.parse(document.getElementById("report-data").textContent);

{
  const byValue = (key) => (a, b) => {
    const [x, y] = [key(a), key(b)];
    return isNaN(x) || isNaN(y) || x === "" || y === "" ? String(x).localeCompare(String(y)) : x - y;
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = byValue((row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim());
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
    }));
  }

  const filters = new Map();  // list -> functions, each of which says whether an entry is shown
  const apply = (list) => {
    const entries = [...list.children];
    for (const entry of entries) entry.hidden = ![...filters.get(list).values()].every((keeps) => keeps(entry));
    const shown = entries.filter((entry) => !entry.hidden).length;
    const count = document.querySelector(`[data-count="${list.id}"]:is(output)`);
    count.textContent = shown < entries.length ? `${shown} of ${entries.length}` : "";
    document.querySelector(`[data-empty="${list.id}"]`).hidden = shown > 0;
  };
  const setFilter = (list, name, keeps) => {
    if (!filters.has(list)) filters.set(list, new Map());
    filters.get(list).set(name, keeps);
    apply(list);
  };

  for (const field of document.querySelectorAll("input[data-filter]")) {
    const list = document.getElementById(field.dataset.filter);
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      setFilter(list, "search", (entry) => entry.textContent.toLowerCase().includes(wanted));
    });
  }

  const examples = document.getElementById("example-list");
  if (examples) {
    const original = [...examples.children];
    const orders = {
      "": null,
      score: (a, b) => b.dataset.score - a.dataset.score,
      label: (a, b) => a.dataset.label.localeCompare(b.dataset.label),
      name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
    };
    document.getElementById("example-kind").addEventListener("change", (event) => {
      const kind = event.target.value;
      setFilter(examples, "kind", (entry) => !kind || entry.classList.contains(kind));
    });
    document.getElementById("example-order").addEventListener("change", (event) => {
      const compare = orders[event.target.value];
      examples.append(...(compare ? [...original].sort(compare) : original));
    });
    for (const button of examples.querySelectorAll(".enlarge")) {
      button.addEventListener("click", () => {
        const large = button.closest(".example").classList.toggle("large");
        button.setAttribute("aria-pressed", large);
      });
    }
  }

  // The link of the section that is being read.
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const mark = () => {
    const begun = [...document.querySelectorAll("main > section")].filter((each) => each.getBoundingClientRect().top < 160);
    const ended = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 4;
    const current = ended && window.scrollY > 0 ? [...links.keys()].pop() : begun.pop()?.id;
    for (const [id, link] of links) {
      if (id !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const bar = link.closest("ul");
        bar.scrollLeft = link.offsetLeft - bar.offsetLeft - (bar.clientWidth - link.clientWidth) / 2;
      }
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}
