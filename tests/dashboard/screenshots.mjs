// screenshots.mjs FOLDER: pictures of all views of the demo and of a large mesh, in light and dark, as PNG; and docs/dashboard.svg, the
// graph of the demo as the page draws it.

import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { browser, dashboard, demo, folder, open, opened, visit } from './harness.mjs';
import { write } from './synthetic.mjs';

const VIEWS = {
  graph: 'tab=graph',
  service: opened('node', 'shop/reviews'),
  workload: `tab=access&${opened('node', 'shop/ratings-1')}`,
  traffic: 'tab=traffic',
  access: 'tab=access',
  routes: 'tab=routes',
  sidecars: 'tab=sidecars',
  objects: `tab=objects&${opened('object', 'AuthPolicy/shop/ratings-callers')}`,
  findings: 'tab=findings',
};

/// The drawn graph as a document of its own: styles become attributes.
function drawing() {
  const STYLES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'font-size', 'font-weight', 'text-anchor'];
  const canvas = document.querySelector('.canvas');
  const scene = canvas.querySelector('.scene');
  const { x, y, width, height } = scene.getBBox();
  const copy = scene.cloneNode(true);
  const [from, to] = [scene, copy].map((root) => [...root.querySelectorAll('*')]);
  to.forEach((element, at) => {
    const style = getComputedStyle(from[at]);
    for (const name of [...element.getAttributeNames()]) {
      if (/^(class|tabindex|role|aria-|data-)/.test(name)) element.removeAttribute(name);
    }
    if (!['rect', 'path', 'text', 'circle'].includes(element.localName)) return;
    for (const name of STYLES) {
      if (element.localName !== 'text' && /^(font|text)/.test(name)) continue;
      const value = style.getPropertyValue(name);
      if (value !== 'none' || name === 'fill') element.setAttribute(name, value);
    }
    if (element.hasAttribute('d')) element.setAttribute('d', element.getAttribute('d').replace(/\d+\.\d+/g, (number) => Number(number).toFixed(1)));
  });
  from.forEach((element, at) => {
    if (element.matches('.reach, .flow, title')) to[at].remove();
  });
  const comments = document.createTreeWalker(copy, NodeFilter.SHOW_COMMENT);
  const all = [];
  while (comments.nextNode()) all.push(comments.currentNode);
  all.forEach((one) => one.remove());
  copy.removeAttribute('transform');
  copy.removeAttribute('class');
  const box = [x - 20, y - 20, width + 40, height + 40].map(Math.round);
  const back = getComputedStyle(document.querySelector('.graph')).backgroundColor;
  const text = new XMLSerializer().serializeToString(copy).replace(/ xmlns="[^"]*"/g, '').replace(/\s*\n\s*/g, '\n').replace(/></g, '>\n<');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box.join(' ')}" font-family="system-ui, DejaVu Sans, sans-serif">
<!-- Written by tests/dashboard/run.sh, option screenshots. -->
<rect x="${box[0]}" y="${box[1]}" width="${box[2]}" height="${box[3]}" fill="${back}"/>
${text}
</svg>
`;
}

const target = process.argv[2];
await mkdir(target, { recursive: true });
const dir = await folder();
await write(dir, 1000, 5000);
const [small, large, chromium] = [await demo(), await dashboard(dir), await browser()];
try {
  for (const theme of ['light', 'dark']) {
    const page = await open(chromium, small.url, { theme });
    await page.waitForSelector('#tab-access .count');
    await page.waitForSelector('.edge.denied');
    if (theme === 'light') await writeFile(new URL('../../docs/dashboard.svg', import.meta.url), await page.evaluate(drawing));
    for (const [name, place] of Object.entries(VIEWS)) {
      await visit(page, place);
      await new Promise((done) => setTimeout(done, 300));
      await page.screenshot({ path: join(target, `${name}-${theme}.png`) });
    }
    await page.close();
    const big = await open(chromium, large.url, { theme });
    await big.waitForSelector('.node.folded');
    await big.screenshot({ path: join(target, `large-folded-${theme}.png`) });
    await big.evaluate(() => [...document.querySelectorAll('.tools button')].at(-1).click());
    await big.waitForFunction(() => document.querySelectorAll('.node').length === 1000);
    await big.screenshot({ path: join(target, `large-${theme}.png`) });
    await big.close();
  }
} finally {
  await chromium.close();
  await Promise.all([small.stop(), large.stop()]);
  await rm(dir, { recursive: true, force: true });
}
