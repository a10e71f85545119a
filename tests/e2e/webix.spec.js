"use strict";

// The unmodified Webix uploader in a real browser: log in, upload, see the picture, and the error paths.

const { test, expect } = require("@playwright/test");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { start, stored, password, photographs } = require("./imagewell.js");

let server;
test.beforeAll(async () => { server = await start("serve", { IMAGEWELL_OPSPORTAL_UPLOAD_BYTES_MAX: "300000" }); });
test.afterAll(() => server.stop());

/** The portal's own files come from its own place; everything else is imagewell's. */
async function openPortal(page) {
  await page.route("**/portal/*", (route) => {
    const name = new URL(route.request().url()).pathname.split("/").pop();
    const file = name === "index.html" ? path.join(__dirname, "portal.html") : path.join(__dirname, "node_modules/webix", name);
    return fs.existsSync(file) ? route.fulfill({ path: file }) : route.fulfill({ status: 404 });
  });
  await page.goto(`${server.url}/portal/index.html`);
  await page.waitForFunction(() => window.token && $$("uploader"));
}

async function logIn(page, name) {
  await page.goto(`${server.url}/site/login`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(`${server.url}/`);
}

async function upload(page, file) {
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.getByText("Upload a photograph").click()]);
  await chooser.setFiles(file);
  await page.waitForFunction(() => ["server", "error"].includes($$("uploader").files.getItem($$("uploader").files.getLastId())?.status)
    && !($$("uploader").files.getItem($$("uploader").files.getLastId()).status === "error" && window.answers.length === 1
      && /csrf/i.test(window.answers[0].text)));
  return page.evaluate(() => ({
    item: { ...$$("uploader").files.getItem($$("uploader").files.getLastId()), file: undefined },
    answers: window.answers.map((answer) => ({ status: answer.status, envelope: JSON.parse(answer.text) })),
  }));
}

function scratch(name, bytes) {
  const file = test.info().outputPath(name);
  fs.writeFileSync(file, bytes);
  return file;
}

test("a photograph is uploaded and shown", async ({ page }) => {
  await logIn(page, "ada");
  await openPortal(page);
  const { item, answers } = await upload(page, path.join(photographs, "astronaut-512.jpg"));
  expect(item.status).toBe("server");
  expect(answers).toEqual([{ status: 200, envelope: { status: "server", data: { uuid: item.data.uuid, status: "server" } } }]);
  await expect(page.locator("#shown")).toHaveJSProperty("naturalWidth", 512);
  expect(stored(server.blobs)).toHaveLength(1);
});

test("a stale token is noticed, fetched anew and the upload goes through", async ({ page }) => {
  await logIn(page, "ada");
  await openPortal(page);
  await page.evaluate(() => { window.token = "stale"; });
  const { item, answers } = await upload(page, path.join(photographs, "rocket.jpg"));
  expect(answers.map((answer) => answer.status)).toEqual([403, 200]);
  expect(answers[0].envelope.id).toBe("E_CSRF");
  expect(item.status).toBe("server");
  await expect(page.locator("#shown")).toHaveJSProperty("naturalWidth", 640);
});

test("refusals reach the uploader as errors and store nothing", async ({ page }) => {
  await logIn(page, "ada");
  const before = stored(server.blobs);
  const photograph = fs.readFileSync(path.join(photographs, "rocket.jpg"));
  const cases = [
    [scratch("script.png", "#!/bin/sh\nrm -rf /"), 422, "E_INVALIDPARAMS"],
    [scratch("page.jpg", "<script>alert(1)</script>"), 422, "E_INVALIDPARAMS"],
    [scratch("cut.jpg", photograph.subarray(0, 60000)), 422, "E_INVALIDPARAMS"],
    [path.join(photographs, "hubble_deep_field.jpg"), 413, "E_TOOLARGE"],
    [scratch("huge.jpg", Buffer.concat([photograph, Buffer.alloc(30_000_000)])), 413, "E_TOOLARGE"],
  ];
  for (const [file, status, id] of cases) {
    await openPortal(page);
    const { item, answers } = await upload(page, file);
    expect(item.status).toBe("error");
    expect(answers.map((answer) => [answer.status, answer.envelope.id])).toEqual([[status, id]]);
  }
  expect(stored(server.blobs)).toEqual(before);
});

test("an ended session is told by the number that clients key on", async ({ page }) => {
  await logIn(page, "ada");
  await openPortal(page);
  await page.evaluate(async () => {
    await fetch("/site/logout", { method: "POST", headers: { "X-CSRF-Token": window.token } });
    await window.refreshToken();
  });
  const { item, answers } = await upload(page, path.join(photographs, "rocket.jpg"));
  expect(item.status).toBe("error");
  expect([answers[0].status, answers[0].envelope.id]).toEqual([401, 5]);
});

test("who lacks the permission uploads but does not see", async ({ page }) => {
  await logIn(page, "bob");
  await openPortal(page);
  const { item } = await upload(page, path.join(photographs, "rocket.jpg"));
  expect(item.status).toBe("server");
  await page.locator("#shown").waitFor({ state: "attached" });
  await page.waitForFunction(() => document.getElementById("shown").complete);
  await expect(page.locator("#shown")).toHaveJSProperty("naturalWidth", 0);
});

/** A page of another site on this machine, for which the browser has no rule but those of sites. */
async function onAnotherSite(context, work) {
  const site = http.createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end("<h1>another site</h1>"));
  await new Promise((resolve) => site.listen(0, "localhost", resolve));
  const page = await context.newPage();
  await page.goto(`http://localhost:${site.address().port}/`);
  try {
    return await work(page);
  } finally {
    site.close();
  }
}

test("a page of another site can neither embed an image nor get a token", async ({ page, context }) => {
  await logIn(page, "ada");
  await openPortal(page);
  const { item } = await upload(page, path.join(photographs, "rocket.jpg"));
  const image = `${server.url}/opsportal/image/opstool/${item.data.uuid}`;
  const outcome = await onAnotherSite(context, (other) => other.evaluate(async ([image, token]) => {
    const picture = new Image();
    const embedded = new Promise((resolve) => { picture.onload = () => resolve("shown"); picture.onerror = () => resolve("refused"); });
    picture.src = image;
    const read = fetch(token, { credentials: "include" }).then((answer) => answer.text(), () => "refused");
    return [await embedded, await read];
  }, [image, `${server.url}/csrfToken`]));
  expect(outcome).toEqual(["refused", "refused"]);
});

test("a page of another site can embed what it has a link to, and can't read it", async ({ context }) => {
  const md5 = createHash("md5").update(password).digest("hex");
  const answer = await fetch(`${server.url}/api_gateway/file-service/rewards/rocket.jpg`, {
    method: "POST",
    headers: { Authorization: `Basic ${Buffer.from(`till01:${md5}`).toString("base64")}` },
    body: fs.readFileSync(path.join(photographs, "rocket.jpg")),
  });
  const { secureFilePath } = await answer.json();
  const outcome = await onAnotherSite(context, (other) => other.evaluate(async (link) => {
    const picture = new Image();
    const embedded = new Promise((resolve) => { picture.onload = () => resolve(picture.naturalWidth); picture.onerror = () => resolve(0); });
    picture.src = link;
    return [await embedded, await fetch(link).then(() => "read", () => "refused")];
  }, secureFilePath));
  expect(outcome).toEqual([640, "refused"]);
});
