"use strict";

// A developer portal in a real browser: jquery-form posts a picture through an iframe, cropperjs selects, the profile takes it.

const { test, expect } = require("@playwright/test");
const path = require("node:path");
const { start, stored, password, photographs } = require("./imagewell.js");

const MODULES = { "jquery.js": "jquery/dist", "jquery.form.min.js": "jquery-form/dist", "cropper.js": "cropperjs/dist", "cropper.css": "cropperjs/dist" };

let server;
test.beforeAll(async () => { server = await start("serve", { IMAGEWELL_DROPBOX_DOCUMENT_DOMAINS: "portal.test" }); });
test.afterAll(() => server.stop());

/** The portal's own files come from its own place; everything else is imagewell's. */
async function openPortal(page, host = server.url, name = "ada") {
  await page.route("**/portal/*", (route) => {
    const file = new URL(route.request().url()).pathname.split("/").pop();
    const folder = file === "avatar.html" ? __dirname : path.join(__dirname, "node_modules", MODULES[file] ?? "none");
    return route.fulfill({ path: path.join(folder, file), headers: { "Origin-Agent-Cluster": "?0" } });
  });
  await page.goto(`${host}/portal/avatar.html`);
  if (name) {
    const login = (base) => page.evaluate(async ([base, email, password]) => {
      const body = JSON.stringify({ email, password });
      return (await fetch(`${base}/api/login`, { method: "POST", body })).status;
    }, [base, name, password]);
    expect(await login("")).toBe(200);
  }
}

async function add(page, file, base = "", domain = "") {
  await page.locator("#picture").setInputFiles(file);
  return page.evaluate(([base, domain]) => window.add(base, domain), [base, domain]);
}

const text = (content) => ({ name: "a.png", mimeType: "image/png", buffer: Buffer.from(content) });

test("a picture goes through the iframe, is cropped, and becomes the avatar", async ({ page }) => {
  await openPortal(page);
  const added = await add(page, path.join(photographs, "rocket.jpg"));
  expect(added).toMatchObject({ status: "200", text: "success" });
  expect(added.body).toMatch(/^[0-9]+$/);
  expect(await page.evaluate((ticket) => window.openCrop(ticket), added.body)).toBe(512);
  const cropped = await page.evaluate((ticket) => window.sendCrop(ticket, { x: 100.5, y: 20.25, width: 120, height: 120 }), added.body);
  expect(cropped).toEqual([200, added.body]);
  const body = JSON.stringify({ PictureID: added.body });
  const [status, answer] = await page.evaluate((body) => window.change("PUT", "/api/users/ada/avatar", "application/json", body), body);
  expect([status, JSON.parse(answer)]).toEqual([200, { AvatarVersionID: "1" }]);
  expect((await page.evaluate(() => window.showAvatar(96))).width).toBe(96);
});

test("what somebody selects is what they get", async ({ page }) => {
  await openPortal(page);
  // Left half red, right half blue.
  const halves = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 400, height: 400 });
    const context = canvas.getContext("2d");
    context.fillStyle = "#d01010"; context.fillRect(0, 0, 200, 400);
    context.fillStyle = "#1020d0"; context.fillRect(200, 0, 200, 400);
    return canvas.toDataURL("image/png").split(",")[1];
  });
  const added = await add(page, { name: "halves.png", mimeType: "image/png", buffer: Buffer.from(halves, "base64") });
  await page.evaluate((ticket) => window.openCrop(ticket), added.body);
  for (const [x, colour] of [[300, [16, 32, 208]], [20, [208, 16, 16]]]) {
    await page.evaluate(([ticket, x]) => window.sendCrop(ticket, { x, y: 100, width: 150, height: 150 }), [added.body, x]);
    const pixel = await page.evaluate(async (ticket) => {
      const picture = await createImageBitmap(await (await fetch(`/api/dropbox/pictures/${ticket}?size=64`)).blob());
      const canvas = new OffscreenCanvas(64, 64);
      canvas.getContext("2d").drawImage(picture, 0, 0);
      return [...canvas.getContext("2d").getImageData(32, 32, 1, 1).data.slice(0, 3)];
    }, added.body);
    colour.forEach((value, channel) => expect(Math.abs(pixel[channel] - value)).toBeLessThan(24));
  }
});

test("without a picture the avatar is a drawing that the browser shows", async ({ page }) => {
  await openPortal(page, server.url, "bob");
  const drawn = await page.evaluate(async () => {
    const image = document.getElementById("avatar");
    image.src = "/api/users/bob.builder/avatar?size=128";
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  });
  expect(drawn).toEqual([128, 128]);
});

test("every refusal is read from the frame and stores nothing", async ({ page }) => {
  await openPortal(page, server.url, null);
  const before = stored(server.blobs).length;
  expect(await add(page, path.join(photographs, "rocket.jpg"))).toMatchObject({ status: "401", text: "error" });
  await openPortal(page);
  const refused = await add(page, text("<b>no picture</b>"));
  expect(refused).toMatchObject({ status: "400", text: "error" });
  expect(refused.body).toContain("accepted are");
  expect(await add(page, text("%PDF-1.7"))).toMatchObject({ status: "400", text: "error" });
  const domain = await add(page, path.join(photographs, "rocket.jpg"), "", "<script>alert(1)</script>");
  expect(domain).toEqual({ status: "400", text: "error", body: "Not accepted: document.domain is no domain." });
  await page.evaluate(() => { document.cookie = "Csrf-Token_acme=x; path=/"; });
  const forged = await add(page, path.join(photographs, "rocket.jpg"));
  expect(forged).toMatchObject({ status: "401", text: "error" });
  expect(forged.body).toContain("X-Csrf-Token_");
  expect(stored(server.blobs).length).toBe(before);
});

test("a page on a sibling host reads no token from a refusal", async ({ page }) => {
  const port = new URL(server.url).port;
  const [images, other] = [`http://images.portal.test:${port}`, `http://other.portal.test:${port}`];
  await openPortal(page, images);
  const before = stored(server.blobs).length;
  await openPortal(page, other, null);
  // It posts an empty form into a frame, and looks into it from the same document.domain.
  const seen = await page.evaluate((images) => new Promise((resolve) => {
    document.domain = "portal.test";
    const frame = Object.assign(document.createElement("iframe"), { name: "victim" });
    document.body.append(frame);
    const form = Object.assign(document.createElement("form"), { method: "post", enctype: "multipart/form-data", target: "victim" });
    form.action = `${images}/api/dropbox/pictures?wrapInHTML=true&document.domain=portal.test`;
    document.body.append(form);
    frame.addEventListener("load", () => setTimeout(() => {
      try { resolve(`read: ${frame.contentWindow.document.cookie}`); } catch (error) { resolve(error.name); }
    }, 200));
    form.submit();
  }), images);
  expect(seen).toBe("SecurityError");
  expect(stored(server.blobs).length).toBe(before);
});

test.describe("jquery-form, which looks at its frame 15 ms after it was sent", () => {
  // If the answer has just come and its script, which sets document.domain, hasn't run yet, it takes the frame for an aborted upload.
  test.describe.configure({ retries: 2 });

  test("a portal on a sibling host reads the frame by document.domain", async ({ page }) => {
    const port = new URL(server.url).port;
    const [images, portal] = [`http://images.portal.test:${port}`, `http://www.portal.test:${port}`];
    await openPortal(page, images);
    const [csrf] = (await page.context().cookies(images)).filter((cookie) => cookie.name === "Csrf-Token_acme");
    await openPortal(page, portal, null);
    await page.evaluate((csrf) => { document.domain = "portal.test"; document.cookie = `Csrf-Token_acme=${csrf}; path=/`; }, csrf.value);
    const added = await add(page, path.join(photographs, "rocket.jpg"), images, "portal.test");
    expect(added).toMatchObject({ status: "200", text: "success" });
    expect(added.body).toMatch(/^[0-9]+$/);
  });
});
