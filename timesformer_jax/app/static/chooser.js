const input = element.querySelector("input");
const drop = element.querySelector(".drop");
const state = element.querySelector(".state");
const bar = element.querySelector(".sent");
let sending = null;

function say(text, wrong) {
  state.textContent = text;
  state.classList.toggle("wrong", Boolean(wrong));
}

function mark(button) {
  element.querySelectorAll(".examples button").forEach((one) => one.setAttribute("aria-pressed", one === button));
}

function send(file) {
  sending?.abort();
  const request = (sending = new XMLHttpRequest());
  const failed = (text) => {
    bar.hidden = true;
    say(text, true);
  };
  request.open("POST", "upload?name=" + encodeURIComponent(file.name));
  request.responseType = "json";
  request.upload.onprogress = (event) => {
    bar.value = event.total ? event.loaded / event.total : 0;
  };
  request.onload = () => {
    bar.hidden = true;
    if (request.status !== 200) {
      failed(request.response?.error ?? "The server did not take this file.");
      return;
    }
    say(file.name);
    document.dispatchEvent(new Event("app-chosen"));
    trigger("upload", { token: request.response.token });
  };
  request.onerror = () => failed("The upload broke off: is the server still running, and the file still there?");
  mark(null);
  say("Uploading " + file.name + " …");
  bar.value = 0;
  bar.hidden = false;
  request.send(file);
}

input.addEventListener("change", () => {
  if (input.files.length) send(input.files[0]);
  input.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.remove("over");
  });
}
drop.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
element.querySelector(".examples").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  sending?.abort();
  bar.hidden = true;
  mark(button);
  say("");
  document.dispatchEvent(new Event("app-chosen"));
  trigger("select", { number: Number(button.dataset.number) });
});
