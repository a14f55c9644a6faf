// The page: asks for traffic and objects again and again, and shows them.

import { byId, facts, html, table } from './dom.js';
import { draw, fit, zoom } from './graph.js';
import { build, health, keyOf, sum, words } from './model.js';

const TRAFFIC_EVERY = 3000;
const OBJECTS_EVERY = 15000;
/// A larger graph begins with its namespaces folded.
const FOLD_FROM = 60;

const state = {
  traffic: { edges: [], servers: [], windowSeconds: 0 },
  objects: { proxies: [], objects: [], findings: [] },
  folded: new Set(),
  chosen: null,
  wrong: { traffic: '', objects: '' },
  first: true,
};

async function ask(what, path) {
  try {
    const answer = await fetch(path, { cache: 'no-store' });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    state[what] = JSON.parse(text);
    state.wrong[what] = '';
  } catch (error) {
    state.wrong[what] = `${what}: ${error.message}`;
  }
  render();
}

async function again(every, one) {
  for (;;) {
    await one();
    await new Promise((done) => setTimeout(done, every));
  }
}

const namespaces = () => {
  const ends = state.traffic.edges.flatMap((row) => [row.source, row.destination]);
  const objects = [...ends, ...state.objects.objects].map((one) => one.namespace);
  return [...new Set(objects)].filter((name) => name !== '').sort();
};

const chosenNamespace = () => byId('namespace').value;
const inNamespace = (name) => chosenNamespace() === '' || name === chosenNamespace();

function renderNamespaces() {
  const select = byId('namespace');
  const names = namespaces();
  const known = [...select.options].slice(1).map((option) => option.value);
  if (JSON.stringify(known) === JSON.stringify(names)) return;
  const chosen = select.value;
  select.replaceChildren(html('option', { value: '' }, 'all'), ...names.map((name) => html('option', { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

function renderStatus() {
  const status = byId('status');
  const wrong = Object.values(state.wrong).filter((text) => text !== '');
  const missing = (state.traffic.replicas ?? []).filter((one) => one.error).map((one) => `${one.replica}: ${one.error}`);
  const said = [...wrong, ...missing].join('; ');
  status.className = said === '' ? '' : 'wrong';
  const rate = sum(state.traffic.edges).rate;
  status.textContent = said || `${state.traffic.edges.length} edges, ${words.rate(rate)} over ${state.traffic.windowSeconds} s`;
}

const columns = [
  { title: 'Source', cell: (row) => keyOf(row.source) },
  { title: 'Destination', cell: (row) => keyOf(row.destination) },
  { title: 'Backend', cell: (row) => (row.backend ? keyOf(row.backend) : row.answeredBySidecar ? '(sidecar)' : '-') },
  { title: 'Protocol', cell: (row) => row.protocol },
  { title: 'Rate', number: true, cell: (row) => words.rate(row.requestsPerSecond + row.connectionsPerSecond) },
  { title: 'Success', number: true, cell: (row) => html('span', { class: health(row.successPercent) }, words.percent(row.successPercent)) },
  { title: '403', number: true, cell: (row) => words.percent(row.forbiddenPercent) },
  { title: 'p50', number: true, cell: (row) => words.millis(row.p50Ms) },
  { title: 'p99', number: true, cell: (row) => words.millis(row.p99Ms) },
  { title: 'mTLS', cell: (row) => row.mtls },
];

const wrongConditions = (object) => object.conditions.filter((one) => !one.good);
const conditions = (list) => list.map((one) => `${one.type}=${one.status} ${one.reason}: ${one.message}`).join('\n');

const objectColumns = [
  { title: 'Object', cell: (row) => `${row.kind} ${row.namespace ? `${row.namespace}/` : ''}${row.name}` },
  { title: 'Weights in force', cell: (row) => row.weights || '-' },
  { title: 'State', cell: (row) => (wrongConditions(row).length === 0 ? '✓' : html('span', { class: 'bad' }, `✕ ${conditions(wrongConditions(row))}`)) },
];

function renderTables() {
  const { proxies, objects, findings } = state.objects;
  const edges = state.traffic.edges.filter((row) => inNamespace(row.source.namespace) || inNamespace(row.destination.namespace));
  byId('edges').replaceChildren(table(`${edges.length} edges`, columns, edges));
  const own = proxies.filter((one) => inNamespace(one.proxy.split('/')[0]));
  byId('proxies').replaceChildren(table(`${own.length} sidecars`, [
    { title: 'Sidecar', cell: (row) => row.proxy },
    { title: 'State', cell: (row) => html('span', { class: row.well ? 'good' : 'bad' }, `${row.well ? '✓' : '✕'} ${row.state}`) },
    { title: 'Replica', cell: (row) => row.replica },
    { title: 'Identity', cell: (row) => row.identity || '-' },
    { title: 'Resources', number: true, cell: (row) => row.resources },
    { title: 'Envoy', cell: (row) => row.version || '-' },
  ], own));
  const shown = objects.filter((one) => one.namespace === '' || inNamespace(one.namespace));
  byId('objects').replaceChildren(table(`${shown.length} objects`, objectColumns, shown));
  byId('findings').replaceChildren(table(`${findings.length} findings`, [
    { title: 'Severity', cell: (row) => html('span', { class: row.severity === 'error' ? 'bad' : 'poor' }, row.severity) },
    { title: 'Object', cell: (row) => row.object },
    { title: 'Field', cell: (row) => row.field || '-' },
    { title: 'Message', cell: (row) => row.message },
    { title: 'Fix', cell: (row) => row.fix || '-' },
  ], findings));
}

function figures(rows) {
  const all = sum(rows);
  return facts([
    ['rate', words.rate(all.rate)],
    ['success', words.percent(all.success)],
    ['answered 403', words.percent(all.forbidden)],
    ['p50, worst', words.millis(all.p50)],
    ['p99, worst', words.millis(all.p99)],
    ['mutual TLS', all.mtls],
  ]);
}

const objectsOf = (names) => state.objects.objects.filter((one) => names.has(one.namespace));

function commands(edge) {
  // People paste these lines into a shell, so every part has to be the name of an object.
  const named = (end) => end && [end.namespace, end.name].every((part) => /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(part));
  const rows = edge.rows.filter((row) => named(row.source) && named(row.destination));
  const calls = rows.map((row) => `heddle why --from ${keyOf(row.source)} GET http://${row.destination.name}.${row.destination.namespace}/`);
  return [...new Set(calls)].slice(0, 5).map((text) => html('code', {}, text));
}

function details(part, graph) {
  const body = [];
  const names = new Set();
  if (part.kind === 'edge') {
    const edge = graph.edges.find((edge) => edge.key === part.key);
    if (!edge) return null;
    const calls = edge.rows.filter((row) => row.destination);
    calls.forEach((row) => names.add(row.destination.namespace));
    body.push(figures(edge.rows));
    if (calls.length > 0) body.push(table('By backend', columns, calls));
    if (calls.length > 0) body.push(html('h3', {}, 'The rule and policies of a request'), ...commands(edge));
    part = { title: `${edge.from} → ${edge.to}`, ...part };
  } else {
    const node = graph.nodes.find((node) => node.key === part.key);
    if (!node) return null;
    names.add(node.namespace);
    const [into, out] = ['to', 'from'].map((end) => graph.edges.filter((edge) => edge[end] === node.key && !edge.inner));
    body.push(html('h3', {}, 'Requests to it'), figures(into.flatMap((edge) => edge.rows)));
    body.push(html('h3', {}, 'Requests of it'), figures(out.flatMap((edge) => edge.rows)));
    if (node.folded) body.push(html('h3', {}, 'Parts'), html('p', {}, [...node.members].sort().join(', ')));
    part = { title: node.key, ...part };
  }
  const objects = objectsOf(names);
  if (objects.length > 0) body.push(table(`Objects of ${[...names].join(', ')}`, objectColumns, objects));
  return { title: part.title, body };
}

function renderPanel(graph) {
  const found = state.chosen && details(state.chosen, graph);
  byId('panel').hidden = !found;
  if (!found) return;
  byId('panel-title').textContent = found.title;
  byId('panel-body').replaceChildren(...found.body);
}

function choose(kind) {
  return (part) => {
    state.chosen = { kind, key: part.key };
    render();
    byId('panel-title').focus();
  };
}

function fold(node) {
  if (node.namespace === '') return;
  if (!state.folded.delete(node.namespace)) state.folded.add(node.namespace);
  render();
}

function render() {
  if (state.first && state.traffic.edges.length > 0) {
    state.first = false;
    if (build(state.traffic, '', new Set()).nodes.length > FOLD_FROM) state.folded = new Set(namespaces());
  }
  renderNamespaces();
  renderStatus();
  renderTables();
  const graph = build(state.traffic, chosenNamespace(), state.folded);
  byId('empty').hidden = graph.nodes.length > 0;
  draw(graph, { node: choose('node'), edge: choose('edge'), fold });
  renderPanel(graph);
}

function select(tab, focus) {
  for (const one of byId('tabs').children) {
    const chosen = one === tab;
    one.setAttribute('aria-selected', String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    byId(one.getAttribute('aria-controls')).hidden = !chosen;
  }
  if (focus) tab.focus();
}

function listen() {
  const tabs = [...byId('tabs').children];
  tabs.forEach((tab, at) => {
    tab.addEventListener('click', () => select(tab));
    tab.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) select(tabs.at((at + step) % tabs.length), true);
    });
  });
  byId('zoom-in').addEventListener('click', () => zoom(1.3));
  byId('zoom-out').addEventListener('click', () => zoom(1 / 1.3));
  byId('zoom-fit').addEventListener('click', fit);
  byId('fold').addEventListener('click', () => {
    state.folded = state.folded.size > 0 ? new Set() : new Set(namespaces());
    render();
  });
  byId('namespace').addEventListener('change', render);
  byId('window').addEventListener('change', () => traffic());
  byId('close').addEventListener('click', close);
  document.addEventListener('keydown', (event) => event.key === 'Escape' && close());
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const theme = (name) => { root.dataset.theme = name; };
  theme(dark.matches ? 'dark' : 'light');
  dark.addEventListener('change', () => theme(dark.matches ? 'dark' : 'light'));
  byId('theme').addEventListener('click', () => theme(root.dataset.theme === 'dark' ? 'light' : 'dark'));
}

function close() {
  state.chosen = null;
  render();
}

const traffic = () => ask('traffic', `api/traffic?window=${byId('window').value}`);

listen();
again(TRAFFIC_EVERY, traffic);
again(OBJECTS_EVERY, () => ask('objects', 'api/objects'));
