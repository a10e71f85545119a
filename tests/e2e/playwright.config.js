"use strict";

// Debian's Chromium. The flags keep it from asking anything of the network and let it run as root.
module.exports = {
  testDir: ".",
  timeout: 30_000,
  workers: 1,
  forbidOnly: true,
  reporter: [["list"]],
  use: {
    launchOptions: {
      executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
      // Hosts of one site on this machine, whose pages come from the tests themselves.
      args: ["--host-resolver-rules=MAP *.portal.test 127.0.0.1", "--disable-features=LocalNetworkAccessChecks", "--no-sandbox",
        "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync"],
    },
  },
};
