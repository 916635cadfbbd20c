// Confusion matrix of many classes: an overview on a canvas, and a table of a class and those that it is confused with.
if (REPORT.confusion) {
  const { names, totals, counts, orders } = REPORT.confusion;
  const MOST_NEAR = 9;
  const canvas = document.getElementById("confusion-map"), order = document.getElementById("confusion-order");
  const field = document.getElementById("confusion-class"), readout = document.getElementById("confusion-cell");
  const table = document.getElementById("confusion-near"), note = document.getElementById("confusion-note");
  const rows = names.map(() => new Map()), columns = names.map(() => new Map());
  for (const [i, j, count] of counts) {
    rows[i].set(j, count);
    columns[j].set(i, count);
  }
  const mistakes = counts.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2]);
  let chosen = mistakes.length ? mistakes[0][0] : 0;
  let cell = [0, 0];  // positions of the keyboard's cell
  let places = [];  // class -> position

  const classes = document.getElementById("confusion-classes");
  classes.append(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));

  const draw = () => {
    const colour = (name) => {  // a canvas takes no variables
      canvas.style.color = `var(${name})`;
      return getComputedStyle(canvas).color;
    };
    const context = canvas.getContext("2d"), size = canvas.width / names.length, side = Math.max(size, 4);
    places = [];
    orders[order.value].forEach((index, place) => { places[index] = place; });
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const [i, j, count] of counts) {
      context.globalAlpha = 0.2 + 0.8 * Math.sqrt(count / totals[i]);
      context.fillStyle = colour(i === j ? "--right" : "--wrong");
      context.fillRect(places[j] * size, places[i] * size, side, side);
    }
    context.globalAlpha = 0.55;
    context.fillStyle = colour("--text");
    const middle = (places[chosen] + 0.5) * size;
    context.fillRect(0, middle - 1, canvas.width, 2);
    context.fillRect(middle - 1, 0, 2, canvas.height);
    context.globalAlpha = 1;
  };

  const describe = ([across, down]) => {
    const [i, j] = [orders[order.value][down], orders[order.value][across]];
    const count = rows[i].get(j) ?? 0;
    readout.textContent = i === j ? `${names[i]}: ${count} of ${totals[i]} correct` :
      `${names[i]} taken for ${names[j]}: ${count} of ${totals[i]}`;
  };

  const list = (pairs) => pairs.map(([i, count]) => `${names[i]} (${count})`).join(", ");

  const choose = (index) => {
    chosen = index;
    field.value = names[index];
    const confused = new Map();
    for (const found of [rows[index], columns[index]]) {
      for (const [other, count] of found) if (other !== index) confused.set(other, (confused.get(other) ?? 0) + count);
    }
    const ranked = (found) => [...found].filter(([i]) => i !== index).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const near = [index, ...ranked(confused).slice(0, MOST_NEAR).map(([i]) => i)];
    const head = document.createElement("tr");
    head.append(document.createElement("td"), ...near.map((j) => {
      const name = Object.assign(document.createElement("span"), { textContent: names[j] });
      const column = Object.assign(document.createElement("th"), { scope: "col", className: j === index ? "chosen" : "" });
      column.append(name);
      return column;
    }));
    table.replaceChildren(table.createTHead(), table.createTBody());
    table.tHead.append(head);
    for (const i of near) {
      const row = table.tBodies[0].insertRow();
      row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: names[i], className: i === index ? "chosen" : "" }));
      for (const j of near) {
        const count = rows[i].get(j), entry = row.insertCell();
        if (!count) continue;
        entry.textContent = count;
        entry.className = i === j ? "right" : "wrong";
        entry.style.setProperty("--share", (count / totals[i]).toFixed(3));
        entry.title = `${names[i]} predicted as ${names[j]}: ${count} of ${totals[i]}`;
      }
    }
    const own = ranked(rows[index]).slice(0, 5), others = ranked(columns[index]).slice(0, 5);
    note.textContent = `${names[index]}: ${rows[index].get(index) ?? 0} of ${totals[index]} correct.` +
      (own.length ? ` Mistaken for ${list(own)}.` : "") + (others.length ? ` Predicted for ${list(others)}.` : "") +
      (confused.size > MOST_NEAR ? ` The table has the ${MOST_NEAR} of ${confused.size} classes that it is confused with most.` : "");
    draw();
  };

  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top]
      .map((offset) => Math.max(0, Math.min(names.length - 1, Math.floor(offset / box.width * names.length))));
  };
  canvas.addEventListener("pointermove", (event) => describe(under(event)));
  canvas.addEventListener("pointerdown", (event) => describe(under(event)));
  canvas.addEventListener("click", (event) => {
    cell = under(event);
    describe(cell);
    choose(orders[order.value][cell[1]]);
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter") choose(orders[order.value][cell[1]]);
    if (!(event.key in moves)) return;
    event.preventDefault();
    cell = cell.map((place, i) => Math.max(0, Math.min(names.length - 1, place + moves[event.key][i])));
    describe(cell);
  });
  field.addEventListener("focus", () => field.select());
  field.addEventListener("change", () => {
    const wanted = field.value.trim().toLowerCase();
    const found = names.findIndex((name) => name.toLowerCase() === wanted);
    const like = found >= 0 ? found : names.findIndex((name) => wanted && name.toLowerCase().includes(wanted));
    if (like >= 0) choose(like);
    else note.textContent = `No class is called ${field.value}.`;
  });
  order.addEventListener("change", draw);
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", draw);
  choose(chosen);
  cell = [places[chosen], places[chosen]];
}
