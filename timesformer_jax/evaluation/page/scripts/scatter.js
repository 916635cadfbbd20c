// Scatter plot: the video under the pointer, and one class among all.
if (REPORT.scatter) {
  const { names, dots } = REPORT.scatter;
  const svg = document.getElementById("scatter"), marker = document.getElementById("scatter-marker");
  const readout = document.getElementById("scatter-video"), select = document.getElementById("scatter-class");
  const shapes = [...svg.querySelectorAll("circle[class], path[class]")];

  let current = null;

  const isShown = (dot) => select.value === "" || dot[2] === +select.value;
  const show = (dot) => {
    current = dot;
    marker.setAttribute("visibility", dot ? "visible" : "hidden");
    if (!dot) return;
    marker.setAttribute("cx", dot[0]);
    marker.setAttribute("cy", dot[1]);
    readout.textContent = `${dot[3]}: ${names[dot[2]]}, ${dot[4] ? "predicted correctly" : "predicted wrongly"}`;
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = null, least = 24 ** 2;
    for (const dot of dots.filter(isShown)) {
      const distance = (dot[0] - x) ** 2 + (dot[1] - y) ** 2;
      if (distance < least) [best, least] = [dot, distance];
    }
    show(best);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(null));  // a finger always leaves
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const there = dots.filter(isShown).sort((a, b) => a[0] - b[0]);
    const next = current ? there.indexOf(current) + move : move > 0 ? 0 : there.length - 1;
    if (there.length) show(there[Math.max(0, Math.min(next, there.length - 1))]);
  });
  select.addEventListener("change", () => {
    const chosen = select.value;
    const there = dots.filter(isShown);
    shapes.forEach((shape, i) => shape.classList.toggle("dim", !isShown(dots[i])));
    show(null);
    readout.textContent = chosen === "" ? "" :
      `${there.length} video(s) of ${names[chosen]}, ${there.filter((dot) => dot[4]).length} predicted correctly`;
  });
}
