// Clips: the frames and the map, side by side, as animations with play, pause and a slider.
{
  const FRAMES_PER_SECOND = 4;  // slow enough to follow a map from frame to frame
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let strength = 1;

  class Player {
    constructor(root) {
      const { count, columns, width, height, area } = root.dataset;
      Object.assign(this, { root, count: +count, columns: +columns, width: +width, height: +height });
      this.area = area.split(" ").map(Number);
      this.plain = root.querySelector(".plain");
      this.mapped = root.querySelector(".mapped");
      this.button = root.querySelector(".toggle");
      this.slider = root.querySelector(".seek");
      this.output = root.querySelector("output");
      this.frames = root.querySelector(".frames");
      this.maps = root.querySelector(".maps");
      this.name = this.button.getAttribute("aria-label").replace(/^Play /, "");
      this.frame = 0;
      this.wanted = false;
      this.visible = false;
      this.ready = Promise.all([this.frames, this.maps].filter(Boolean).map((image) => image.decode()));
      this.ready.then(() => this.draw());
      this.button.addEventListener("click", () => { this.play(!this.wanted); showAll(); });
      root.querySelector(".screens").addEventListener("click", () => this.button.click());
      this.slider.addEventListener("input", () => { this.play(false); this.show(+this.slider.value); showAll(); });
    }

    play(wanted) {
      this.wanted = wanted;
      this.root.classList.toggle("playing", wanted);
      this.button.setAttribute("aria-label", `${wanted ? "Pause" : "Play"} ${this.name}`);
    }

    show(frame) {
      this.frame = frame;
      this.slider.value = frame;
      this.output.textContent = `${frame + 1} / ${this.count}`;
      this.draw();
    }

    draw() {
      const column = this.frame % this.columns, row = Math.floor(this.frame / this.columns);
      for (const canvas of [this.plain, this.mapped].filter(Boolean)) {
        const { width, height } = this;
        canvas.getContext("2d").drawImage(this.frames, column * width, row * height, width, height, 0, 0, width, height);
      }
      if (this.mapped) this.drawMap(column, row);
    }

    drawMap(column, row) {
      // The map is cut out first: while enlarging, browsers would mix in the neighbouring frames' maps.
      const [width, height] = [this.maps.naturalWidth / this.columns, this.maps.naturalHeight / Math.ceil(this.count / this.columns)];
      const cut = Object.assign(document.createElement("canvas"), { width, height });
      cut.getContext("2d").drawImage(this.maps, column * width, row * height, width, height, 0, 0, width, height);
      const context = this.mapped.getContext("2d");
      const [top, left, tall, wide] = this.area;
      const box = [left * this.width, top * this.height, wide * this.width, tall * this.height];
      if (tall * wide < 0.98) {  // darken what the model doesn't see
        context.fillStyle = "rgb(0 0 0 / 55%)";
        context.beginPath();
        context.rect(0, 0, this.width, this.height);
        context.rect(...box);
        context.fill("evenodd");
      }
      context.globalAlpha = strength;
      context.imageSmoothingQuality = "high";
      context.drawImage(cut, ...box);
      context.globalAlpha = 1;
    }
  }

  const players = [...document.querySelectorAll(".player")].map((root) => new Player(root));
  const all = document.getElementById("play-all");
  const showAll = () => { all.textContent = players.some((player) => player.wanted) ? "Pause all" : "Play all"; };

  if (players.length) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) players.find((player) => player.root === entry.target).visible = entry.isIntersecting;
    }, { threshold: 0.3 });
    for (const player of players) {
      seen.observe(player.root);
      player.play(!calm.matches);
    }
    setInterval(() => {
      for (const player of players) if (player.wanted && player.visible) player.show((player.frame + 1) % player.count);
    }, 1000 / FRAMES_PER_SECOND);
    all.addEventListener("click", () => {
      const play = !players.some((player) => player.wanted);
      for (const player of players) player.play(play);
      showAll();
    });
    calm.addEventListener("change", () => {
      if (calm.matches) for (const player of players) player.play(false);
      showAll();
    });
    document.getElementById("map-strength")?.addEventListener("input", (event) => {
      strength = event.target.value / 100;
      for (const player of players) player.draw();
    });
    showAll();
  }
}
