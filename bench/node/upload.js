// What an application would write itself: Express, multer to disk, sharp for what the bytes are, sharp for thumbnails with a cache of files.
// node upload.js PORT FOLDER PROCESSES

const cluster = require("node:cluster");
const crypto = require("node:crypto");
const fs = require("node:fs/promises");
const express = require("express");
const multer = require("multer");
const sharp = require("sharp");

const [port, folder, processes] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];

if (cluster.isPrimary && processes > 1) {
  for (let started = 0; started < processes; started += 1) cluster.fork();
  process.on("SIGTERM", () => process.exit(0));
} else {
  const application = express();
  const upload = multer({ dest: folder, limits: { fileSize: 200_000_000 } });
  application.post("/image", upload.single("image"), async (request, response) => {
    try {
      const { format, width, height } = await sharp(request.file.path).metadata();
      response.json({ id: request.file.filename, format, width, height });
    } catch {
      await fs.rm(request.file.path);
      response.status(422).json({ error: "this is no image" });
    }
  });
  const named = (request) => `${folder}/${request.params.id.replace(/[^0-9a-f]/g, "")}`;
  application.get("/image/:id", (request, response) => {
    response.type("image/jpeg").sendFile(named(request));
  });
  application.get("/image/:id/:width", async (request, response) => {
    const width = Number.parseInt(request.params.width, 10);
    const kept = `${named(request)}.${width}`;
    try {
      await fs.access(kept);
    } catch {
      const staged = `${kept}.${crypto.randomUUID()}`;
      await sharp(named(request)).rotate().resize(width).jpeg({ quality: 85 }).toFile(staged);
      await fs.rename(staged, kept);
    }
    response.type("image/jpeg").sendFile(kept);
  });
  application.listen(port, "127.0.0.1");
}
