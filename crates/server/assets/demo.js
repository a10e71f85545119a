// Uploads as a portal would: a token from /csrfToken, then a multipart post with the parameters in the path.
"use strict";

const form = document.getElementById("upload");
const outcome = document.getElementById("outcome");
const gallery = document.getElementById("gallery");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  outcome.className = "";
  outcome.textContent = "Uploading …";
  try {
    const path = await upload(form.elements.image.files[0]);
    outcome.textContent = "Stored.";
    show(path);
    form.reset();
  } catch (error) {
    outcome.className = "error";
    outcome.textContent = error.message;
  } finally {
    button.disabled = false;
  }
});

async function upload(file) {
  const { appKey, permission } = form.dataset;
  const { _csrf } = await (await fetch("/csrfToken")).json();
  const body = new FormData();
  body.append("image", file);
  const answer = await fetch(`/opsportal/image/${appKey}/${permission}/false`, {
    method: "POST",
    headers: { "X-CSRF-Token": _csrf, "Accept": "application/json" },
    body,
  });
  const envelope = await answer.json();
  if (envelope.status !== "success") throw new Error(envelope.message);
  return `/opsportal/image/${appKey}/${envelope.data.uuid}`;
}

function show(path) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  const code = document.createElement("code");
  image.src = path;
  image.alt = "Just uploaded";
  code.textContent = path;
  caption.append(code);
  figure.append(image, caption);
  gallery.prepend(figure);
}
