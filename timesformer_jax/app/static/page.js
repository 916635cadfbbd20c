// Videos of the same upload play together, at the chosen speed. Very short ones start slowly.
(() => {
  const SHORT = 1.5; // seconds
  let chosen = false;
  const all = () => [...document.querySelectorAll("#shown video")];
  // Models may take clips of different lengths; their videos don't go together.
  const others = (video) => all().filter((one) => one !== video && Math.abs(one.duration - video.duration) < 0.05);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const speed = () => Number(document.querySelector("#shown .speed :checked")?.value ?? 1);
  const on = (type, react) =>
    document.addEventListener(type, (event) => event.target.matches?.("#shown video") && react(event.target), true);

  on("loadedmetadata", (video) => {
    const slow = document.querySelector("#shown .speed [value='0.25']");
    if (!chosen && slow && video.duration < SHORT) slow.checked = true;
    video.playbackRate = speed();
    if (still.matches) video.pause();
  });
  on("play", (video) => {
    for (const one of others(video)) {
      if (Math.abs(one.currentTime - video.currentTime) > 0.1) one.currentTime = video.currentTime;
      if (one.paused) one.play().catch(() => {});
    }
  });
  on("pause", (video) => video.ended || video.seeking || others(video).forEach((one) => one.pause()));
  on("seeked", (video) => {
    for (const one of others(video)) {
      if (video.paused && Math.abs(one.currentTime - video.currentTime) > 0.1) one.currentTime = video.currentTime;
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.name !== "speed") return;
    chosen = true;
    all().forEach((video) => (video.playbackRate = speed()));
  });

  // A click at a moment of the timeline moves the slider there; keyboards move the slider itself.
  document.addEventListener("click", (event) => {
    const moments = event.target.closest?.("#shown .moments");
    const slider = document.querySelector("#moment input[type=range]");
    if (!moments || !slider) return;
    const { left, width } = moments.getBoundingClientRect();
    const [begin, end, span] = ["begin", "end", "window"].map((name) => Number(moments.dataset[name]));
    slider.value = begin + ((event.clientX - left) / width) * (end - begin) - span / 2;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // Typing into the list of labels replaces the current one.
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("#label input")) setTimeout(() => event.target.select());
  });

  // On a phone the results are below: show them. Only this element announces changes to screen readers.
  document.addEventListener("app-chosen", () => {
    const view = document.querySelector("#view");
    document.querySelector("#status").setAttribute("aria-live", "polite");
    if (view.getBoundingClientRect().top > innerHeight * 0.6) view.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
  });
})();
