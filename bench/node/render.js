// Renders what it is told to, one line of JSON at a time, and says how long each took.
"use strict";

const readline = require("node:readline");
const sharp = require("sharp");

sharp.concurrency(1);
sharp.cache(false);

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { source, target, size, square, format } = JSON.parse(line);
  const started = process.hrtime.bigint();
  await sharp(source)
    .rotate()
    .resize(size, size, { fit: square ? "cover" : "inside", withoutEnlargement: !square })
    .toFormat(format, { quality: format === "jpeg" ? 85 : 80 })
    .toFile(target);
  process.stdout.write(`${Number(process.hrtime.bigint() - started) / 1e6}\n`);
});
