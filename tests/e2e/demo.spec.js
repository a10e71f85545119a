"use strict";

// The demo as somebody new meets it.

const { test, expect } = require("@playwright/test");
const path = require("node:path");
const { start, photographs, root } = require("./imagewell.js");

let demo;
test.beforeAll(async () => { demo = await start("demo"); });
test.afterAll(() => demo.stop());

async function logIn(page, name) {
  const password = new RegExp(`^ +${name} +(\\S+)`, "m").exec(demo.output)[1];
  await page.goto(`${demo.url}/demo`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(`${demo.url}/demo`);
}

test("log in, see the sample, upload another and see that too", async ({ page }) => {
  const faults = [];
  page.on("console", (message) => { if (message.type() === "error") faults.push(message.text()); });
  page.on("pageerror", (error) => faults.push(error.message));
  await page.setViewportSize({ width: 900, height: 1000 });
  await logIn(page, "ada");
  await expect(page.getByAltText("Uploaded by the demo")).toHaveJSProperty("naturalWidth", 512);
  await expect(page.getByAltText("A file of the demo's till")).toHaveJSProperty("naturalWidth", 451);
  await page.getByLabel("An image").setInputFiles(path.join(photographs, "rocket.jpg"));
  await page.getByRole("button", { name: "Upload" }).click();
  await expect(page.locator("#outcome")).toHaveText("Stored.");
  await expect(page.locator("figure img").first()).toHaveJSProperty("naturalWidth", 640);
  await page.waitForFunction(() => [...document.images].every((image) => image.complete));
  if (process.env.UPDATE_DOCS) await page.screenshot({ path: path.join(root, "docs/demo.png") });
  expect(faults).toEqual([]);
});

test("a refusal is shown in words", async ({ page }) => {
  await logIn(page, "ada");
  await page.getByLabel("An image").setInputFiles({ name: "a.png", mimeType: "image/png", buffer: Buffer.from("#!/bin/sh") });
  await page.getByRole("button", { name: "Upload" }).click();
  await expect(page.locator("#outcome")).toContainText("this is a script");
  await expect(page.locator("#outcome")).toHaveClass("error");
});

test("a wrong password is told on the page", async ({ page }) => {
  await page.goto(`${demo.url}/site/login`);
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Log in" }).click();
  await expect(page.getByRole("alert")).toHaveText("Wrong name or password.");
});

test("a picture is put into the dropbox, a part of it selected, and taken", async ({ page }) => {
  const faults = [];
  page.on("console", (message) => { if (message.type() === "error") faults.push(message.text()); });
  page.on("pageerror", (error) => faults.push(error.message));
  await page.setViewportSize({ width: 900, height: 1250 });
  await page.goto(`${demo.url}/demo/avatar`);
  await page.getByRole("button", { name: "Log in" }).click();
  await expect(page.locator("#outcome")).toHaveText("Logged in as ada.");
  await expect(page.getByAltText("Avatar at 128 pixels")).toHaveJSProperty("naturalWidth", 128);
  await page.getByLabel("A picture").setInputFiles(path.join(photographs, "chelsea.png"));
  await page.getByRole("button", { name: "Put it into the dropbox" }).click();
  await expect(page.locator("#outcome")).toContainText("Drag the square");
  const square = await page.locator("#selection").boundingBox();
  await page.mouse.move(square.x + 50, square.y + 50);
  await page.mouse.down();
  await page.mouse.move(square.x + 90, square.y + 10, { steps: 4 });
  await page.mouse.up();
  await expect(page.locator("#selection")).toHaveAttribute("x", "168");
  await page.getByRole("button", { name: "Take it as the avatar" }).click();
  await expect(page.locator("#outcome")).toHaveText("Avatar 1 of ada.");
  await expect(page.getByAltText("Avatar at 128 pixels")).toHaveJSProperty("naturalWidth", 128);
  expect(faults).toEqual([]);
});

test("every operation is shown on one photograph", async ({ page }) => {
  const faults = [];
  page.on("console", (message) => { if (message.type() === "error") faults.push(message.text()); });
  await page.setViewportSize({ width: 1000, height: 900 });
  await logIn(page, "ada");
  await page.getByRole("link", { name: "Transforms" }).click();
  await page.waitForFunction(() => document.images.length > 40 && [...document.images].every((image) => image.complete));
  const sizes = await page.evaluate(() =>
    Object.fromEntries([...document.images].map((image) => [image.alt, [image.naturalWidth, image.naturalHeight]])));
  expect(Object.entries(sizes).filter(([, [width]]) => width === 0)).toEqual([]);
  expect(sizes).toMatchObject({
    "w_240,h_120,fit_inside": [120, 120],
    "w_240,h_120,fit_outside": [240, 240],
    "w_240,h_120,fit_cover": [240, 120],
    "w_240,h_120,fit_contain": [240, 120],
    "crop_380-60-110-260,w_240,h_160,fit_cover": [110, 73],
    "crop_200-60-60-60,w_240": [60, 60],
    "crop_200-60-60-60,w_240,enlarge": [240, 240],
    "w_160,f_avif": [160, 160],
  });
  expect(faults).toEqual([]);
});
