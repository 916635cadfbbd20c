// Line charts: the values under the pointer, or at the step that the arrow keys choose.
{
  const number = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));

  const nearest = (values, wanted) => values.reduce((best, value, i) => Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best, 0);

  for (const figure of document.querySelectorAll(".chart")) {
    const { axis, lines } = REPORT.charts[figure.dataset.chart];
    const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
    const markers = [...figure.querySelectorAll(".marker")], values = [...figure.querySelectorAll(".readout .key b")];
    const at = figure.querySelector(".at");
    const places = [...new Map(lines.flatMap((line) => line.steps.map((step, i) => [step, line.x[i]]))).entries()].sort((a, b) => a[0] - b[0]);
    let place = places.length - 1;

    const show = (index) => {
      place = Math.max(0, Math.min(index, places.length - 1));
      const [step, x] = places[place];
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", "visible");
      at.textContent = `${axis} ${step.toLocaleString("en")}`;
      lines.forEach((line, i) => {
        const near = nearest(line.steps, step);
        markers[i].setAttribute("cx", line.x[near]);
        markers[i].setAttribute("cy", line.y[near]);
        markers[i].setAttribute("visibility", "visible");
        const elsewhere = line.steps[near] === step ? "" : ` (${axis} ${line.steps[near].toLocaleString("en")})`;
        values[i].textContent = number(line.values[near]) + elsewhere;
      });
    };
    const leave = () => {
      show(places.length - 1);
      for (const each of [cursor, ...markers]) each.setAttribute("visibility", "hidden");
    };

    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      show(nearest(places.map((each) => each[1]), x));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());  // a finger always leaves
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const page = Math.max(Math.round(places.length / 10), 1);
      const moves = { ArrowLeft: place - 1, ArrowRight: place + 1, PageUp: place - page, PageDown: place + page, Home: 0, End: places.length };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    });
  }
}
