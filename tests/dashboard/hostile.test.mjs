// Names that come from outside are text, whatever is in them.

import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { browser, dashboard, folder, open, opened, visit } from './harness.mjs';
import { write } from './synthetic.mjs';

const NAME = `"'><img src=x onerror=document.title='broken'>\\\n\u202e&open=node:x`;

let [dir, running, chromium] = [];
before(async () => {
  dir = await folder();
  await write(dir, 3, 4, NAME);
  running = await dashboard(dir);
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await running?.stop();
  await rm(dir, { recursive: true, force: true });
});

test('a name with markup is shown as it is, in all views, and can be opened', async () => {
  const page = await open(chromium, running.url);
  await page.waitForSelector('.node');
  const key = await page.evaluate(() => [...document.querySelectorAll('.node')].map((one) => one.dataset.key).find((one) => one.includes('<img')));
  assert.ok(key, 'the name is not there');
  for (const place of ['tab=graph', 'tab=traffic', 'tab=sidecars', 'tab=objects', 'tab=findings', opened('node', key)]) {
    await visit(page, place);
    assert.equal(await page.$$eval('img, script:not([src])', (all) => all.length), 0, place);
  }
  assert.equal(await page.title(), 'Heddle');
  assert.equal(await page.$eval('#panel-title', (title) => title.textContent), key);
  await page.evaluate((key) => document.querySelector(`[data-key="${CSS.escape(key)}"]`).focus(), key);
  await page.keyboard.press('ArrowRight');
  assert.deepEqual(page.wrong, []);
  await page.close();
});
