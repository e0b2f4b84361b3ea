// Uses the page as a visitor would, in a headless Chromium, and checks what comes of it:
//   node drive.js [--batches FILE] [--steps N] [--rate X] [--record FILE] [--model FILE] [--screenshot FILE]
// Chromium is the one that CHROMIUM names, else /usr/bin/chromium.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { serve } from "./serve.js";

const string = (value) => ({ type: "string", default: value });
const { values } = parseArgs({
  options: { batches: string(), steps: string("100"), rate: string("0.001"), record: string(), model: string(), screenshot: string() },
});

const extra = values.batches ? { "/batches.json": await readFile(values.batches) } : {};
const server = await serve(0, extra);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const tab = await browser.newPage({ viewport: { width: 1100, height: 860 }, acceptDownloads: true });
  const faults = [];
  tab.on("pageerror", (error) => faults.push(String(error)));
  tab.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  tab.on("request", (request) => {
    const host = new URL(request.url()).hostname;
    if (!["127.0.0.1", ""].includes(host)) faults.push(`the page asks ${request.url()}`);
  });
  await tab.goto(`http://127.0.0.1:${server.address().port}/${values.batches ? "?batches=batches.json" : ""}`);
  await tab.getByRole("button", { name: "Train" }).and(tab.locator(":enabled")).waitFor({ timeout: 60_000 });

  for (const [name, mode] of [["plain: loss", "plain"], ["FAM: loss + λκ", "fam"]]) {
    await tab.getByLabel("Steps", { exact: true }).fill(values.steps);
    await tab.getByLabel("Learning rate").fill(values.rate);
    await tab.getByLabel(name).check();
    await tab.getByRole("button", { name: "Train" }).click();
    await tab.waitForFunction(
      ([mode, steps]) => page.networks[mode].step === steps && !page.running,
      [mode, Number(values.steps)],
      { timeout: 300_000 },
    );
  }
  const { fam, plain } = await tab.evaluate(() => ({ fam: page.networks.fam.curves, plain: page.networks.plain.curves }));
  const last = (points) => points.at(-1)[1];
  for (const curves of [fam, plain]) {
    assert.equal(curves.loss.length, Number(values.steps));
    assert.ok(last(curves.loss) < 0.5 * curves.loss[0][1], `the loss falls: ${curves.loss[0][1]} to ${last(curves.loss)}`);
    assert.ok(last(curves.accuracy) > 0.8, `accuracy ${last(curves.accuracy)}`);
  }
  assert.ok(last(fam.kappa) < last(plain.kappa), `κ is smaller with FAM: ${last(fam.kappa)}, plain ${last(plain.kappa)}`);
  console.log(`FAM: loss ${last(fam.loss).toFixed(4)}, κ ${last(fam.kappa).toFixed(2)}, accuracy ${last(fam.accuracy)}`);
  console.log(`plain: loss ${last(plain.loss).toFixed(4)}, κ ${last(plain.kappa).toFixed(2)}, accuracy ${last(plain.accuracy)}`);

  // A seven, drawn by hand.
  const area = await tab.locator("#canvas").boundingBox();
  const at = (x, y) => [area.x + x * area.width, area.y + y * area.height];
  await tab.mouse.move(...at(0.25, 0.25));
  await tab.mouse.down();
  for (const [x, y] of [[0.5, 0.24], [0.74, 0.25], [0.6, 0.5], [0.48, 0.82]]) await tab.mouse.move(...at(x, y), { steps: 8 });
  await tab.mouse.up();
  await tab.waitForFunction(() => document.getElementById("guess-plain").textContent !== "");
  const guesses = await tab.locator("[id^=guess-]").allTextContents();
  assert.ok(guesses.every((guess) => guess.startsWith("says 7")), `a seven is drawn; ${guesses}`);
  if (values.screenshot) await tab.screenshot({ path: values.screenshot, fullPage: true });

  const [download] = await Promise.all([tab.waitForEvent("download"), tab.getByRole("button", { name: "Download" }).click()]);
  assert.equal(download.suggestedFilename(), "lenet-fam.onnx");
  if (values.model) await download.saveAs(values.model);
  if (values.record) {
    const record = fam.loss.map(([, loss], i) => ({ loss, kappa: [fam.kappa[i][1]] }));
    await writeFile(values.record, JSON.stringify(record));
  }
  await tab.getByRole("button", { name: "Start over" }).click();
  await tab.waitForFunction(() => page.networks.fam.step === 0);
  assert.deepEqual(faults, []);
} finally {
  await browser.close();
  server.close();
}
