// The page on a mesh of 1,000 services and 5,000 edges. Times are measured by measure.mjs.

import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { audit, browser, dashboard, folder, open, text } from './harness.mjs';
import { write } from './synthetic.mjs';

const [SERVICES, EDGES] = [1000, 5000];

let [dir, running, chromium] = [];
before(async () => {
  dir = await folder();
  await write(dir, SERVICES, EDGES);
  running = await dashboard(dir);
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await running?.stop();
  await rm(dir, { recursive: true, force: true });
});

test('a large mesh begins with its namespaces folded, and unfolds into all services', async () => {
  const page = await open(chromium, running.url);
  await page.waitForSelector('.node.folded');
  assert.equal(await page.$$eval('.node.folded', (all) => all.length), SERVICES / 25);
  await audit(page, 'folded');
  await page.evaluate(() => [...document.querySelectorAll('.tools button')].at(-1).click());
  await page.waitForFunction((count) => document.querySelectorAll('.node').length === count, {}, SERVICES);
  // Thousands of edges are few elements, so that the page stays fluid.
  const elements = await page.$$eval('.canvas *', (all) => all.length);
  assert.ok(elements < 8 * SERVICES, `${elements} elements`);
  const drawn = await page.$$eval('.all-wires path', (all) => all.reduce((sum, path) => sum + path.getAttribute('d').split('M').length - 1, 0));
  assert.equal(drawn, EDGES);
  await audit(page, 'unfolded');
  assert.deepEqual(page.wrong, []);
  await page.close();
});

test('a name is found and opened, and a table draws its first rows', async () => {
  const page = await open(chromium, running.url);
  await page.waitForSelector('.node');
  await page.type('input[type="search"]', 'service-0777');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('#panel-title')?.textContent === 'team-31/service-0777');
  await page.focus('input[type="search"]');
  await page.evaluate(() => { location.hash = 'tab=traffic'; });
  await page.waitForSelector('#view table');
  assert.match(await text(page, '#view caption'), /^\d+ edges/);
  const input = await page.$('input[type="search"]');
  await input.click({ count: 3 });
  await page.keyboard.press('Backspace');
  await page.waitForFunction((count) => document.querySelector('#view caption').textContent.startsWith(`${count} edges`), {}, EDGES);
  assert.equal(await page.$$eval('#view tbody tr', (all) => all.length), 200);
  await page.close();
});
