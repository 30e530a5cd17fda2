// npm test: the page classifies a sentence in headless Chromium, and asks no other host for anything.
// CHROME: the browser, by default /usr/bin/google-chrome.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import puppeteer from "puppeteer-core";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const here = import.meta.dirname;
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  try {
    const content = await readFile(join(here, path));
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await puppeteer.launch({
  executablePath: process.env.CHROME ?? "/usr/bin/google-chrome",
  args: ["--no-sandbox"],
});
try {
  const page = await browser.newPage();
  const elsewhere = [];
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    const local = ["blob:", "data:", origin].some((start) => request.url().startsWith(start));
    if (!local) elsewhere.push(request.url());
    return local ? request.continue() : request.abort();
  });
  await page.goto(`${origin}/index.html`);
  const state = await page.waitForSelector("#state[data-answers], #state[data-error]", { timeout: 120_000 });
  const { answers, error } = await state.evaluate((element) => ({ ...element.dataset }));
  if (error) throw new Error(error);
  if (elsewhere.length) throw new Error(`the page asked for ${elsewhere.join(", ")}`);
  const scores = JSON.parse(answers);
  const sum = scores.reduce((total, { score }) => total + score, 0);
  if (scores.length < 2 || Math.abs(sum - 1) > 1e-3) throw new Error(`not probabilities of classes: ${answers}`);
  console.log(answers);
} finally {
  await browser.close();
  server.close();
}
