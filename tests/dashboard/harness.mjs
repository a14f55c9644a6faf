// Starts the programs under test and a real Chromium, and ends them by their process ids.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';

const HEDDLE = process.env.HEDDLE ?? new URL('../../target/debug/heddle', import.meta.url).pathname;
const PATIENCE = 120_000;

export const folder = () => mkdtemp(join(tmpdir(), 'hd-'));

/// A running `heddle`, and its output so far.
export class Program {
  constructor(...args) {
    this.text = '';
    this.child = spawn(HEDDLE, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.ended = once(this.child, 'exit');
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => { this.text += text; });
    }
  }

  /// Waits for a line of the output.
  async says(pattern) {
    const start = Date.now();
    for (;;) {
      const found = this.text.match(pattern);
      if (found) return found[0];
      if (this.child.exitCode !== null || Date.now() - start > PATIENCE) throw new Error(`no ${pattern} in\n${this.text}`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  url = () => this.says(/http:\/\/127\.0\.0\.1:\d+\/[0-9a-f]{32}\//);

  /// Ends it as Ctrl-C does, so that it ends its own children.
  async stop() {
    if (this.child.exitCode === null) this.child.kill('SIGINT');
    await this.ended;
  }
}

export async function demo() {
  const dir = await folder();
  const program = new Program('demo', '--keep', '--dir', dir);
  const stop = async () => {
    await program.stop();
    await rm(dir, { recursive: true, force: true });
  };
  try {
    const url = await program.url();
    await program.says(/It is yours until Ctrl-C/);
    return { dir, url, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

export async function dashboard(dir) {
  const program = new Program('dashboard', '--runtime-dir', dir);
  return { url: await program.url(), stop: () => program.stop() };
}

/// Chromium as root has no sandbox, and here it opens nothing but our own page.
export const browser = () => puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--disable-gpu', '--disable-dev-shm-usage', ...(process.getuid() === 0 ? ['--no-sandbox'] : [])],
});

/// A page that records whatever goes wrong in it, and each address that it asks for.
export async function open(chromium, url, { theme = 'light', motion = 'no-preference', place = '' } = {}) {
  const page = await chromium.newPage();
  await page.setViewport({ width: 1440, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }, { name: 'prefers-reduced-motion', value: motion }]);
  page.setDefaultTimeout(PATIENCE);
  page.wrong = [];
  page.asked = [];
  page.on('pageerror', (error) => page.wrong.push(error.stack ?? error.message));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && page.wrong.push(message.text()));
  page.on('request', (request) => page.asked.push(request.url()));
  await page.goto(url + place);
  await page.waitForSelector('.cards');
  return page;
}

/// Opens a place of the page by its address, as a link does.
export async function visit(page, place) {
  await page.evaluate((hash) => { location.hash = hash; }, place);
  await page.waitForFunction(() => !document.querySelector('aside')?.textContent.includes('Asking…'));
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

export const text = (page, selector) => page.$eval(selector, (element) => element.textContent.replace(/\s+/g, ' ').trim());
export const opened = (kind, key) => `${new URLSearchParams({ open: `${kind}:${key}` })}`;

/// Holds all that the page shows now against the rules of axe.
export async function audit(page, about) {
  await page.evaluate(await readFile(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8'));
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations', 'passes'] }));
  assert.ok(found.passes.some((rule) => rule.id === 'color-contrast'), `${about}: contrast was not checked`);
  const wrong = found.violations.map((rule) => `${rule.id}: ${rule.nodes.map((node) => node.html.slice(0, 160)).slice(0, 3).join(' | ')}`);
  assert.deepEqual(wrong, [], about);
}
