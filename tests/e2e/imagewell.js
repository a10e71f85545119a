"use strict";

// Starts the real program on a folder of its own.

const { spawn, execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.join(__dirname, "../..");
const program = process.env.IMAGEWELL || path.join(root, "target/debug/imagewell");
const password = "correct horse";

function start(command, settings = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "imagewell-e2e-"));
  const data = path.join(folder, "data");
  const env = { PATH: process.env.PATH, IMAGEWELL_LISTEN: "127.0.0.1:0", IMAGEWELL_LOG_FORMAT: "json",
    IMAGEWELL_PASSWORDS_MEMORY_KIB: "8", IMAGEWELL_PASSWORDS_PASSES: "1", ...settings };
  if (command === "serve") {
    env.IMAGEWELL_DATA_DIR = data;
    execFileSync(program, ["provision", path.join(root, "testdata/accounts.toml")], { env });
  }
  const child = spawn(program, [command], { env, cwd: folder });
  return new Promise((resolve, reject) => {
    let output = "";
    const read = (chunk) => {
      output += chunk;
      const url = command === "serve" ? /"url":"([^"]+)"/.exec(output) : /(http\S+)\/demo\n[^]*Ctrl-C/.exec(output);
      if (url) resolve({ url: url[1], output, blobs: path.join(data, "blobs"), stop });
    };
    const stop = () => new Promise((done) => {
      child.removeAllListeners("exit");
      child.on("exit", () => {
        fs.rmSync(folder, { recursive: true, force: true });
        done();
      });
      child.kill("SIGTERM");
    });
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("exit", () => reject(new Error(`it ended: ${output}`)));
  });
}

/** All files of the store. */
function stored(blobs) {
  return fs.existsSync(blobs) ? fs.readdirSync(blobs, { recursive: true }).filter((name) => name.includes(".") && name !== ".imagewell") : [];
}

module.exports = { start, stored, password, photographs: path.join(root, "testdata/photos"), root };
