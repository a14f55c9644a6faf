// The page on the real demo: control plane, agents, Envoys and traffic of `heddle demo`, in a real Chromium.

import assert from 'node:assert/strict';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { audit, browser, demo, open, opened, text, visit } from './harness.mjs';

const TABS = ['graph', 'traffic', 'access', 'routes', 'sidecars', 'objects', 'findings'];
const CALLS = 'shop/frontend-1 → shop/reviews';
const REFUSED = 'shop/batch-1 → shop/ratings';

let [running, chromium] = [];
before(async () => {
  running = await demo();
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await running?.stop();
});

const label = (page, key) => page.$eval(`[data-key="${key}"]`, (part) => part.getAttribute('aria-label'));
const changes = (page, key, old) => page.waitForFunction((key, old) => {
  const now = document.querySelector(`[data-key="${key}"]`)?.getAttribute('aria-label');
  return now && now !== old;
}, {}, key, old);

test('the graph has the traffic of the mesh, and moves with it', async () => {
  const page = await open(chromium, running.url);
  await page.waitForSelector(`[data-key="${REFUSED}"]`);
  const before = await label(page, CALLS);
  assert.match(before, /^shop\/frontend-1 to shop\/reviews: ✓ [\d.]+\/s · [\d.]+ %, [\d.]+ ms · p99 [\d.]+ ms, by mutual TLS$/);
  assert.match(await label(page, REFUSED), /⊘ .*403 [1-9][\d.]* %/);
  await changes(page, CALLS, before);
  const flows = await page.$$eval('.flow', (all) => all.filter((one) => one.getAnimations().some((of) => of.playState === 'running')).length);
  assert.ok(flows > 0, 'no edge moves');
  const still = await open(chromium, running.url, { motion: 'reduce' });
  await still.waitForSelector('.flow');
  assert.equal(await still.$$eval('.flow', (all) => all.filter((one) => one.getAnimations().length > 0).length), 0);
  await Promise.all([page.close(), still.close()]);
});

test('a service shows the weights in force beside the measured shares', async () => {
  const page = await open(chromium, running.url);
  await visit(page, opened('node', 'shop/reviews'));
  const rows = await page.$$eval('.rule tbody tr', (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent.trim())));
  assert.deepEqual(rows.map(([backend, weight]) => [backend, weight]), [['shop/reviews-v1:9080', '50.0 %'], ['shop/reviews-v2:9080', '50.0 %']]);
  for (const [backend, , measured, ready] of rows) {
    assert.match(measured, /^[1-9][\d.]* %$/, backend);
    assert.equal(ready, '1/1');
  }
  await page.close();
});

test('the access view names the callers that are refused, and the policies', async () => {
  const page = await open(chromium, running.url);
  await page.waitForFunction(() => document.querySelector('#tab-access .count'));
  await visit(page, 'tab=access');
  const row = await page.waitForFunction(() => [...document.querySelectorAll('#view tbody tr')]
    .map((row) => row.textContent.replace(/\s+/g, ' ')).find((row) => row.includes('shop/batch-1')));
  const batch = await row.jsonValue();
  assert.match(batch, /⊘ [1-9][\d.]* %.*⊘ no request.*denied, for no Allow rule matches.*AuthPolicy shop\/ratings-callers/);
  await page.click('a[href*="AuthPolicy%2Fshop%2Fratings-callers"]');
  await page.waitForSelector('aside pre');
  assert.match(await text(page, 'aside'), /In force ?yes.*Workloads ?shop\/ratings-1.*spiffe|In force ?yes.*shop\/reviews/);
  await visit(page, opened('node', 'shop/ratings-1'));
  assert.match(await text(page, 'aside'), /May call it .*shop\/reviews-v1-1/);
  await page.close();
});

test('the routes view has the weights in force of all services', async () => {
  const page = await open(chromium, running.url, { place: '#tab=routes' });
  await page.waitForSelector('#view tbody tr');
  const rows = await page.$$eval('#view tbody tr', (all) => all.map((row) => row.textContent.replace(/\s+/g, ' ')));
  assert.equal(rows.length, 1);
  assert.match(rows[0], /shop\/reviews:9080 ?TrafficSplit shop\/reviews.*any request.*reviews-v1:9080.*reviews-v2:9080.*50\.0 %.*50\.0 %.*[1-9][\d.]* %.*[1-9][\d.]* %/);
  await page.close();
});

test('sidecars have their state, and certificates their age', async () => {
  const page = await open(chromium, running.url, { place: '#tab=sidecars' });
  await page.waitForFunction(() => document.querySelectorAll('#view tbody tr').length === 6);
  const rows = await page.$$eval('#view tbody tr', (all) => all.map((row) => row.textContent.replace(/\s+/g, ' ')));
  for (const row of rows.slice(0, 5)) assert.match(row, /shop\/\S+✓ in syncshop\/\S+✓ \d+ (min|h|d) left age \d+ (s|min) ?spiffe:\/\/cluster\.local\/ns\/shop\/sa\//);
  assert.match(rows[5], /[0-9a-f]{16}… ?✓ 36\d\d d left/);
  await page.close();
});

test('a faulty object shows at once which it is and why', async () => {
  const page = await open(chromium, running.url);
  const counts = () => ['objects', 'findings'].map((tab) => document.querySelector(`#tab-${tab} .count`)?.textContent ?? '').join(' ');
  const before = await page.evaluate(counts);
  const [draft, file] = [join(running.dir, 'faulty.yaml'), join(running.dir, 'world/faulty.yaml')];
  await writeFile(draft, `apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: ratings, namespace: shop}
spec: {service: ratings, backends: [{service: ratings-v9, weight: 1}]}
`);
  await rename(draft, file);
  try {
    await page.waitForFunction(() => document.querySelector('#tab-objects .count') && document.querySelector('#tab-findings .count'));
    await visit(page, 'tab=objects');
    assert.match(await text(page, '#view'), /TrafficSplit shop\/ratings.*✕ ResolvedRefs=False BackendNotFound.*ratings-v9 does not exist/);
    await visit(page, 'tab=findings');
    assert.match(await text(page, '#view'), /TrafficSplit shop\/ratings.*create it/);
  } finally {
    await rm(file);
  }
  // The pages of other tests do not find it any more.
  await page.waitForFunction(`(${counts})() === ${JSON.stringify(before)}`);
  await page.close();
});

/** The places that links of the page lead to. */
const links = (page) => page.$$eval('a[href^="#"]', (all) => all.map((one) => one.getAttribute('href')));

const opens = (place) => place.match(/open=[^&]*/)?.[0];

test('every link leads to something', async () => {
  const page = await open(chromium, running.url);
  await page.waitForFunction(() => document.querySelector('#tab-access .count'));
  await visit(page, 'tab=traffic');
  const edges = new Set((await links(page)).map(opens));
  const [seen, waiting] = [new Set(), TABS.map((tab) => `#tab=${tab}`)];
  while (waiting.length > 0) {
    const place = waiting.pop();
    if (seen.has(place)) continue;
    seen.add(place);
    await visit(page, place.slice(1));
    if (place.includes('open=')) {
      const panel = await text(page, 'aside');
      assert.doesNotMatch(panel, /is not a known|knows no such|undefined|\[object/, place);
      // Traffic that has ended leaves while the test walks.
      if (panel.includes('No traffic')) {
        await visit(page, 'tab=traffic');
        assert.ok(edges.has(opens(place)) && !(await links(page)).map(opens).includes(opens(place)), place);
        continue;
      }
      assert.ok(panel.length > 40, `${place}: ${panel}`);
    }
    // The same part beside another view is the same panel.
    waiting.push(...(await links(page)).map((one) => (one.includes('open=') ? one.replace(/tab=\w+/, 'tab=objects') : one)));
  }
  assert.ok(seen.size > 20, `${seen.size} places`);
  assert.deepEqual(page.wrong, []);
  const own = new URL(running.url).origin;
  assert.deepEqual(page.asked.filter((url) => !url.startsWith(own)), []);
  await page.close();
});

test('contrast and names of all views are checked by axe, in light and dark', async () => {
  for (const theme of ['light', 'dark']) {
    const page = await open(chromium, running.url, { theme });
    await page.waitForFunction(() => document.querySelector('#tab-access .count'));
    for (const place of [...TABS.map((tab) => `tab=${tab}`), opened('node', 'shop/reviews'), opened('node', 'shop/ratings-1'), opened('edge', REFUSED),
      opened('object', 'AuthPolicy/shop/ratings-callers'), opened('sidecar', 'shop/ratings-1')]) {
      await visit(page, place);
      await audit(page, `${theme} ${place}`);
    }
    await page.close();
  }
});

test('all is reached by keyboard', async () => {
  const page = await open(chromium, running.url);
  const focused = () => page.evaluate(() => document.activeElement.dataset.key ?? document.activeElement.id);
  await page.focus('#tab-graph');
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction(() => document.activeElement.id === 'tab-traffic');
  await page.keyboard.press('ArrowLeft');
  await page.waitForFunction(() => document.activeElement.id === 'tab-graph');
  let part = '';
  for (let presses = 0; presses < 30 && !part.includes('/'); presses++) {
    await page.keyboard.press('Tab');
    part = await focused();
  }
  assert.ok(part.includes('/'), 'Tab does not reach the graph');
  const walked = new Set([part]);
  for (const key of ['ArrowLeft', 'ArrowLeft', 'ArrowUp', 'ArrowDown', ...Array(12).fill('ArrowRight')]) {
    await page.keyboard.press(key);
    walked.add(await focused());
  }
  assert.ok(walked.size > 5, [...walked].join(', '));
  const last = await focused();
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.activeElement.id === 'panel-title');
  await page.keyboard.press('Escape');
  // The part may have left the graph meanwhile: then the focus is on another one.
  await page.waitForFunction((key) => {
    const [now, part] = [document.activeElement.dataset.key, document.querySelector(`.scene [data-key="${CSS.escape(key)}"]`)];
    return part === null ? now !== undefined : now === key;
  }, {}, last);
  await page.keyboard.press('/');
  await page.keyboard.type('ratings');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('#panel-title')?.textContent === 'shop/ratings');
  await page.keyboard.press('Escape');
  await page.evaluate(() => {
    const node = document.querySelector('[data-kind="node"][data-key^="shop/"]');
    node.focus();
    node.dispatchEvent(new KeyboardEvent('keydown', { key: 'f', bubbles: true }));
    // The page is drawn again while the folded graph is laid out.
    requestAnimationFrame(() => dispatchEvent(new Event('hashchange')));
  });
  await page.waitForFunction(() => document.querySelector('.node.folded'));
  // The part with the focus has left the graph: another one has it.
  await page.waitForFunction(() => document.activeElement.dataset.key !== undefined);
  await page.close();
});
