// dev.mjs URL [PORT]: serves the files of the page from the tree, and asks the running dashboard at URL for all else, so that an
// edit shows after a reload.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

const [upstream, port = '8099'] = process.argv.slice(2);
const page = new URL('../../cli/src/dashboard/page/', import.meta.url);
const TYPES = { html: 'text/html', css: 'text/css', js: 'text/javascript' };

createServer(async (request, response) => {
  try {
    const path = request.url.slice(1) || 'index.html';
    if (path.startsWith('api/')) {
      const answer = await fetch(new URL(path, upstream));
      response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' });
      response.end(await answer.text());
      return;
    }
    const file = new URL(path, page);
    if (!file.href.startsWith(page.href)) throw new Error('outside the page');
    response.writeHead(200, {
      'content-type': TYPES[path.split('.').at(-1)] ?? 'text/plain',
      'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
    });
    response.end(await readFile(file));
  } catch (error) {
    response.writeHead(404).end(String(error));
  }
}).listen(Number(port), '127.0.0.1', function listening() {
  console.log(`http://127.0.0.1:${this.address().port}/`);
});
