// The panel beside the views: all about one node, edge, object or sidecar, with links to the objects behind its numbers.

import { html, nothing } from './libraries/lit.js';
import { edgeKey, sum } from './model.js';
import { badge, bar, facts, link, linked, measured, objectKey, serviceOf, success, table } from './parts.js';
import { description, state } from './state.js';
import { accessColumns, certificate, edgeColumns, wrongConditions } from './tables.js';
import { OUTSIDE, keyOf, moment, mtls, words } from './words.js';

const figures = (all) => facts([
  ['Rate', words.rate(all.rate)],
  ['Success', success(all.success)],
  ['Answered 403', all.forbidden > 0 ? badge('denied', words.percent(all.forbidden)) : words.percent(all.forbidden)],
  ['p50, worst', words.millis(all.p50)],
  ['p99, worst', words.millis(all.p99)],
  ['Transport', { yes: 'mutual TLS', no: badge('poor', all.plain > 99 ? 'plain text' : 'partly in plain text') }[all.mtls] ?? 'not known'],
]);

const list = (title, rows, columns, at = 0) => (rows?.length > 0 ? table(`panel ${title} ${at}`, title, columns, rows) : nothing);

function described(path, show) {
  if (!state.objects.described) return html`<p class="faint">Rules and callers are not known: start with <code>-f</code>.</p>`;
  const { document, error } = description(path);
  if (error) return html`<p class="faint">${error}</p>`;
  return document ? show(document) : html`<p class="faint">Asking…</p>`;
}

function service(name) {
  return described(`service/${name}`, (document) => {
    const only = document.rules.length === 1;
    return html`
      ${document.rules.map((rule, at) => html`<div class="rule">
        <p><strong>${linked(rule.rule)}</strong> <span class="faint">${[rule.callers ? `callers ${rule.callers}` : '', rule.match, rule.timeouts].filter((text) => text).join(' · ')}</span></p>
        ${rule.answer ? html`<p>answers with ${rule.answer}</p>` : list(`Weights in force, port ${rule.port}`, rule.backends, [
    { title: 'Backend', cell: ({ backend }) => link('node', serviceOf(backend), backend) },
    { title: 'Weight', cell: ({ percent }) => bar(percent) },
    { title: 'Measured', cell: ({ backend }) => (only ? bar(measured(name, serviceOf(backend)), 'measured') : '-') },
    { title: 'Ready', number: true, cell: ({ ready, pods }) => `${ready}/${pods}` },
  ], at)}
        ${rule.mirrors.length > 0 ? html`<p>mirrors ${rule.mirrors.join(', ')}</p>` : nothing}
        ${rule.also.map(({ title, text }) => html`<p>${title}: ${text}</p>`)}</div>`)}
      ${list('Policies', [...new Set(document.rules.flatMap((rule) => rule.policies))], [{ title: 'Object', cell: linked }])}
      ${list('Ports', document.ports, [
    { title: 'Port', cell: (port) => `${port.port}${port.name ? ` (${port.name})` : ''}` },
    { title: 'Protocol', cell: (port) => port.protocol },
    { title: 'Ready', number: true, cell: (port) => `${port.ready}/${port.pods}` },
    { title: 'TrafficPolicies', cell: (port) => port.trafficPolicies.map((one) => linked(one)) },
  ])}
      ${document.findings.map((text) => html`<p>${badge('poor', text)}</p>`)}`;
  });
}

function workload(name) {
  return described(`workload/${name}`, (document) => html`
    ${facts([['Identity', document.identity ?? 'none: it has no sidecar'], ['Policies', all(document.policies, linked)]])}
    ${list('May call it', document.mayCall, [
    { title: 'Port', cell: (row) => String(row.port) },
    { title: 'Caller', cell: (row) => html`${row.caller}${row.workloads?.length > 0 ? html`<div>${row.workloads.map((one) => html`${link('node', one)} `)}</div>` : nothing}` },
    { title: 'By', cell: (row) => linked(row.by) },
  ])}
    ${list('Ports', document.ports, [
    { title: 'Port', cell: (row) => String(row.port) },
    { title: 'Protocol', cell: (row) => row.protocol },
    { title: 'mTLS', cell: (row) => (row.mtls === 'Strict' ? badge('good', 'Strict') : badge('poor', row.mtls)) },
    { title: 'By', cell: (row) => linked(row.mtlsBy) },
  ])}
    ${list('Pods', document.pods, [
    { title: 'Pod', cell: (row) => link('sidecar', row.pod) },
    { title: 'Ready', cell: (row) => (row.ready ? badge('good', 'ready') : badge('bad', 'not ready')) },
    { title: 'Sidecar', cell: (row) => row.sidecar ?? '-' },
  ])}
    ${document.findings.map((text) => html`<p>${badge('poor', text)}</p>`)}`);
}

const ends = (title, edges, end) => list(title, edges, [
  { title: end === 'from' ? 'Caller' : 'Destination', cell: (edge) => link('node', edge[end]) },
  { title: 'Rate', number: true, cell: (edge) => link('edge', edge.key, words.rate(edge.figures.rate)) },
  { title: 'Success', number: true, cell: (edge) => success(edge.figures.success) },
  { title: '403', number: true, cell: (edge) => words.percent(edge.figures.forbidden) },
  { title: 'p99', number: true, cell: (edge) => words.millis(edge.figures.p99) },
  { title: 'mTLS', cell: (edge) => mtls[edge.figures.mtls] ?? '' },
]);

function node(key, graph) {
  const known = graph.byKey.get(key);
  const [into, out] = ['to', 'from'].map((end) => graph.edges.filter((edge) => edge[end] === key && !edge.inner));
  const rows = into.flatMap((edge) => edge.rows);
  const seen = (end) => state.traffic.edges.some((row) => keyOf(row[end]) === key);
  const kinds = known?.kinds ?? new Set();
  const isService = kinds.has('service') || state.traffic.servers.some((row) => keyOf(row.service) === key);
  const isWorkload = kinds.has('workload') || seen('source') || state.traffic.servers.some((row) => keyOf(row.workload) === key) || !isService;
  const single = key !== OUTSIDE && !key.endsWith('/') && key.includes('/');
  return html`
    ${rows.length > 0 ? html`<h3>Requests to it</h3>${figures(sum(rows))}` : nothing}
    ${ends('Callers', into, 'from')}
    ${ends('It calls', out, 'to')}
    ${known?.folded ? list('Parts', [...known.members].sort(), [{ title: 'Name', cell: (name) => link('node', name) }]) : nothing}
    ${single && isService ? html`<h3>Service</h3>${service(key)}` : nothing}
    ${single && isWorkload ? html`<h3>Workload</h3>${workload(key)}` : nothing}`;
}

function commands(rows) {
  // People paste these lines into a shell, so every part has to be the name of an object.
  const named = (end) => [end.namespace, end.name].every((part) => /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(part));
  const calls = rows.filter((row) => named(row.source) && named(row.destination))
    .map((row) => `heddle why --from ${keyOf(row.source)} GET http://${row.destination.name}.${row.destination.namespace}/`);
  return [...new Set(calls)].slice(0, 3).map((text) => html`<code>${text}</code>`);
}

function edge(key, graph) {
  const known = graph.edges.find((one) => one.key === key);
  const rows = (known?.rows ?? state.traffic.edges.filter((row) => edgeKey(keyOf(row.source), keyOf(row.destination)) === key));
  if (rows.length === 0) return html`<p class="faint">No traffic in this time.</p>`;
  const calls = rows.filter((row) => row.destination);
  const decided = state.access.calls.filter((call) => calls.some((row) => keyOf(row.source) === keyOf(call.source) && keyOf(row.destination) === keyOf(call.service)));
  const ways = new Set(calls.flatMap((row) => [keyOf(row.source), keyOf(row.destination)]));
  return html`
    ${figures(sum(rows))}
    <p>${[...ways].map((name) => html`${link('node', name)} `)}</p>
    ${list('By backend', calls, edgeColumns.slice(2))}
    ${list('Policies about these callers', decided, accessColumns.slice(2))}
    ${calls.length > 0 && commands(calls).length > 0 ? html`<h3>Explain one request</h3>${commands(calls)}` : nothing}`;
}

const all = (names, show) => (names.length > 0 ? names.map((name) => html`<div>${show(name)}</div>`) : null);

const yaml = (value, depth = 0) => {
  if (typeof value === 'string' && /^[A-Za-z/][\w./-]*$/.test(value)) return ` ${value}`;
  if (value === null || typeof value !== 'object') return ` ${JSON.stringify(value)}`;
  const pad = `\n${'  '.repeat(depth)}`;
  if (Array.isArray(value)) return value.length === 0 ? ' []' : value.map((one) => `${pad}- ${yaml(one, depth + 1).trimStart()}`).join('');
  return Object.entries(value).map(([name, one]) => `${pad}${name}:${yaml(one, depth + 1)}`).join('');
};

function object(key) {
  const known = state.objects.objects.find((one) => objectKey(one) === key);
  const conditions = known?.conditions ?? [];
  return html`
    ${known && wrongConditions(known).length === 0 ? badge('good', 'in force') : nothing}
    ${known?.weights ? facts([['Weights in force', known.weights]]) : nothing}
    ${list('Conditions', conditions, [
    { title: 'Condition', cell: (one) => badge(one.good ? 'good' : 'bad', `${one.type}=${one.status}`) },
    { title: 'Reason', cell: (one) => one.reason },
    { title: 'Message', cell: (one) => one.message },
  ])}
    ${key.split('/').length === 3 ? described(`policy/${key}`, ({ policies: [document] }) => html`
      ${facts([
    ['In force', document.inForce],
    ['Workloads', all(document.workloads, (name) => link('node', name))],
    ['Services', all(document.services, (name) => link('node', serviceOf(name), name))],
    ['Sidecars', document.proxies],
  ])}
      ${document.spec ? html`<h3>Spec in force</h3><pre tabindex="0">${yaml(document.spec).trimStart()}</pre>` : nothing}
      ${document.findings.map((text) => html`<p>${badge('poor', text)}</p>`)}`) : nothing}`;
}

function sidecar(key) {
  const known = state.objects.proxies.find((one) => one.proxy === key);
  if (!known) return html`<p class="faint">The control plane knows no such sidecar.</p>`;
  const about = state.objects.findings.filter((one) => one.object.endsWith(` ${key}`));
  return html`${facts([
    ['State', badge(known.well ? 'good' : 'bad', known.state)],
    ['Certificate', certificate(known.certificate)],
    ['Valid until', known.certificate ? moment(known.certificate.notAfter) : '-'],
    ['Workload', known.workload ? link('node', known.workload) : '-'],
    ['Identity', known.identity || '-'],
    ['Resources', String(known.resources)],
    ['Replica', known.replica],
    ['Envoy', known.version || '-'],
  ])}
  ${about.map((one) => html`<p>${badge('poor', one.message)}</p>`)}
  <h3>All it runs</h3><code>heddle proxy status ${key}</code>`;
}

const KINDS = { node, edge, object, sidecar };
const TITLES = { node: 'Part of the mesh', edge: 'Calls', object: 'Object', sidecar: 'Sidecar' };

/// The title and content for a place; nothing if no part is open.
export function content({ kind, key }, graph) {
  const show = KINDS[kind];
  return show ? { kind: TITLES[kind], title: key, body: show(key, graph) } : null;
}
