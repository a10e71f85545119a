// The flow of a developer portal: log in, put a picture into the dropbox, select a part of it, take it as the avatar.
"use strict";

const outcome = document.getElementById("outcome");
const stage = document.getElementById("stage");
const selection = document.getElementById("selection");
const avatars = document.getElementById("avatars");
let user = null;
let ticket = null;
let square = { x: 128, y: 128, side: 256 };

function say(text, isError = false) {
  outcome.className = isError ? "error" : "";
  outcome.textContent = text;
}

async function call(method, path, headers, body) {
  const csrf = user && new RegExp(`(?:^|; )Csrf-Token_${user.fedmemberid}=([^;]*)`).exec(document.cookie);
  if (csrf) headers[`X-Csrf-Token_${user.fedmemberid}`] = csrf[1];
  const answer = await fetch(path, { method, headers, body });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  return text;
}

function showAvatars() {
  avatars.replaceChildren(...[32, 64, 128].map((size) => {
    const image = document.createElement("img");
    image.src = `/api/users/${user.login}/avatar?size=${size}&s=${Date.now()}`;
    image.alt = `Avatar at ${size} pixels`;
    image.width = image.height = size;
    return image;
  }));
}

function draw() {
  square.side = Math.max(32, Math.min(square.side, 512));
  square.x = Math.max(0, Math.min(square.x, 512 - square.side));
  square.y = Math.max(0, Math.min(square.y, 512 - square.side));
  selection.setAttribute("x", square.x);
  selection.setAttribute("y", square.y);
  selection.setAttribute("width", square.side);
  selection.setAttribute("height", square.side);
}

function act(form, work) {
  document.getElementById(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      say("…");
      await work(event.target);
    } catch (error) {
      say(error.message, true);
    }
  });
}

act("login", async (form) => {
  const body = JSON.stringify({ email: form.elements.email.value, password: form.elements.password.value });
  user = JSON.parse(await call("POST", "/api/login", { "Content-Type": "application/json" }, body));
  document.getElementById("add").hidden = false;
  showAvatars();
  say(`Logged in as ${user.login}.`);
});

act("add", async (form) => {
  const body = new FormData();
  body.append("Profile", form.elements.Profile.files[0]);
  ticket = await call("POST", "/api/dropbox/pictures", {}, body);
  // Crops are in pixels of the picture as it fits into 512×512 with its aspect kept: it is shown like this, not as a square.
  document.getElementById("picture").setAttribute("href", `/api/dropbox/pictures/${ticket}`);
  stage.removeAttribute("hidden");
  document.getElementById("take").hidden = false;
  draw();
  say(`The picture's id is ${ticket}. Drag the square; the wheel changes its size.`);
});

act("take", async () => {
  const fields = new URLSearchParams({ x: square.x, y: square.y, w: square.side, h: square.side });
  await call("PUT", `/api/dropbox/pictures/${ticket}`, { "Content-Type": "application/x-www-form-urlencoded" }, fields);
  const body = JSON.stringify({ PictureID: ticket });
  const taken = JSON.parse(await call("PUT", `/api/users/${user.login}/avatar`, { "Content-Type": "application/json" }, body));
  stage.setAttribute("hidden", "");
  document.getElementById("take").hidden = true;
  showAvatars();
  say(`Avatar ${taken.AvatarVersionID} of ${user.login}.`);
});

selection.addEventListener("pointerdown", (event) => {
  const start = { x: event.clientX - square.x, y: event.clientY - square.y };
  const move = (event) => { square.x = event.clientX - start.x; square.y = event.clientY - start.y; draw(); };
  selection.setPointerCapture(event.pointerId);
  selection.addEventListener("pointermove", move);
  selection.addEventListener("pointerup", () => selection.removeEventListener("pointermove", move), { once: true });
});

selection.addEventListener("wheel", (event) => {
  event.preventDefault();
  const change = event.deltaY > 0 ? -16 : 16;
  square = { x: square.x - change / 2, y: square.y - change / 2, side: square.side + change };
  draw();
}, { passive: false });
