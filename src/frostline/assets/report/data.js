"use strict";
// Filter of classes by a part of their names, if there are too many for one table.
const every = JSON.parse(document.getElementById("every").textContent);
const search = document.querySelector("#classes input"), body = document.querySelector("#classes tbody");
const MOST = 200;  // rows at once
const first = [...body.rows];

function row(cells) {
  const node = document.createElement("tr");
  cells.forEach((cell, place) => node.append(Object.assign(document.createElement("td"), { textContent: cell, className: place ? "number" : "" })));
  return node;
}

search?.addEventListener("input", () => {
  const part = search.value.toLowerCase();
  body.replaceChildren(...part ? every.filter(([name]) => name.toLowerCase().includes(part)).slice(0, MOST).map(row) : first);
});
