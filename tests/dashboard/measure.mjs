// measure.mjs: first paint and frame times of the page at 1,000 services and 5,000 edges, as docs/performance.md has them.

import { rm } from 'node:fs/promises';
import { browser, dashboard, folder, open } from './harness.mjs';
import { write } from './synthetic.mjs';

const ROUNDS = 5;
/// Frames of one drag.
const FRAMES = 120;

const median = (all) => [...all].sort((one, other) => one - other)[Math.floor(all.length / 2)];
const share = (all, part) => [...all].sort((one, other) => one - other)[Math.floor((all.length - 1) * part)];
const ms = (value) => `${value.toFixed(1)} ms`;

/// Times of the first paint, and from the answer of the server to the graph.
async function firstPaint(chromium, url) {
  const page = await open(chromium, url);
  await page.waitForFunction(() => performance.getEntriesByName('graph drawn').length > 0);
  const times = await page.evaluate(() => [performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.getEntriesByName('graph drawn')[0].startTime
    - performance.getEntriesByType('resource').find((one) => one.name.includes('api/traffic')).responseEnd]);
  await page.close();
  return times;
}

/// The times between frames while the graph is dragged, one step a frame.
async function drag(page) {
  return page.evaluate(async (frames) => {
    const canvas = document.querySelector('.canvas');
    const { left, top } = canvas.getBoundingClientRect();
    const at = (type, x) => canvas.dispatchEvent(new MouseEvent(type, { clientX: left + x, clientY: top + 300, button: 0, bubbles: true, cancelable: true, view: window }));
    const times = [];
    at('mousedown', 100);
    let last = await new Promise(requestAnimationFrame);
    for (let frame = 0; frame < frames; frame++) {
      window.dispatchEvent(new MouseEvent('mousemove', { clientX: left + 100 + frame * 3, clientY: top + 300, bubbles: true, cancelable: true, view: window }));
      const now = await new Promise(requestAnimationFrame);
      times.push(now - last);
      last = now;
    }
    window.dispatchEvent(new MouseEvent('mouseup', { clientX: left + 100, clientY: top + 300, bubbles: true, view: window }));
    return times;
  }, FRAMES);
}

const frames = (name, times) => console.log(`${name}: median ${ms(median(times))}, p95 ${ms(share(times, 0.95))}, longest ${ms(Math.max(...times))}`);

const dir = await folder();
await write(dir, 1000, 5000);
const running = await dashboard(dir);
const chromium = await browser();
try {
  console.log(await chromium.version());
  const paints = [];
  for (let round = 0; round < ROUNDS; round++) paints.push(await firstPaint(chromium, running.url));
  console.log(`first contentful paint: ${ms(median(paints.map(([first]) => first)))}; graph of 40 folded namespaces: ${ms(median(paints.map(([, graph]) => graph)))} after the answer of the server (medians of ${ROUNDS})`);
  const page = await open(chromium, running.url);
  await page.waitForFunction(() => performance.getEntriesByName('graph drawn').length > 0);
  frames('frames of a drag, folded', await drag(page));
  const unfolding = await page.evaluate(async () => {
    const start = performance.now();
    [...document.querySelectorAll('.tools button')].at(-1).click();
    while (document.querySelectorAll('.node').length < 1000) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - start;
  });
  console.log(`unfolding 1,000 services: ${ms(unfolding)}`);
  frames('frames of a drag, 1,000 services', await drag(page));
  const scripts = await page.evaluate(() => new Promise((done) => {
    const long = [];
    new PerformanceObserver((list) => long.push(...list.getEntries().map((one) => one.duration))).observe({ type: 'longtask' });
    setTimeout(() => done(long), 10000);
  }));
  console.log(`tasks of more than 50 ms in 10 s of new numbers: ${scripts.length}, longest ${ms(Math.max(0, ...scripts))}`);
} finally {
  await chromium.close();
  await running.stop();
  await rm(dir, { recursive: true, force: true });
}
