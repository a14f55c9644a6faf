// The views with tables: traffic, access, sidecars and certificates, objects, findings.

import { html, nothing } from './libraries/lit.js';
import { edgeKey, rateOf } from './model.js';
import { badge, bar, link, linked, measured, nodeLink, objectKey, serviceOf, success, table } from './parts.js';
import { route, state } from './state.js';
import { keyOf, lifetime, moment, mtls, words } from './words.js';

export const inNamespace = (name) => route().namespace === '' || name === route().namespace;
const matches = (...texts) => state.search === '' || texts.some((text) => text?.toLowerCase().includes(state.search.toLowerCase()));

const between = (row, text) => link('edge', edgeKey(keyOf(row.source), keyOf(row.destination)), text);
const backend = (row) => (row.backend ? nodeLink(row.backend) : row.answeredBySidecar ? '(sidecar)' : '-');

export const edgeColumns = [
  { title: 'Source', value: (row) => keyOf(row.source), cell: (row) => nodeLink(row.source) },
  { title: 'Destination', value: (row) => keyOf(row.destination), cell: (row) => nodeLink(row.destination) },
  { title: 'Backend', cell: backend },
  { title: 'Protocol', value: (row) => row.protocol, cell: (row) => row.protocol },
  { title: 'Rate', number: true, value: rateOf, cell: (row) => between(row, words.rate(rateOf(row))) },
  { title: 'Success', number: true, value: (row) => row.successPercent, cell: (row) => success(row.successPercent) },
  { title: '403', number: true, value: (row) => row.forbiddenPercent, cell: (row) => (row.forbiddenPercent > 0 ? between(row, words.percent(row.forbiddenPercent)) : words.percent(row.forbiddenPercent)) },
  { title: 'p50', number: true, value: (row) => row.p50Ms, cell: (row) => words.millis(row.p50Ms) },
  { title: 'p99', number: true, value: (row) => row.p99Ms, cell: (row) => words.millis(row.p99Ms) },
  { title: 'mTLS', value: (row) => row.mtls, cell: (row) => mtls[row.mtls] || 'not known' },
];

function traffic() {
  const rows = state.traffic.edges.filter((row) => (inNamespace(row.source.namespace) || inNamespace(row.destination.namespace))
    && matches(keyOf(row.source), keyOf(row.destination), row.backend && keyOf(row.backend)));
  return table('traffic', `${words.count(rows.length, 'edge')} over the last ${state.traffic.windowSeconds} s`, edgeColumns, rows);
}

const PASSES = {
  all: ['good', 'all requests'],
  some: ['poor', 'some requests'],
  none: ['denied', 'no request'],
  unknown: ['idle', 'not decided here'],
};
const example = (one) => (one ? html`${one.request}: ${linked(one.by)}` : '-');

export const accessColumns = [
  { title: 'Caller', value: (call) => keyOf(call.source), cell: (call) => nodeLink(call.source) },
  { title: 'Service', value: (call) => keyOf(call.service), cell: (call) => nodeLink(call.service) },
  { title: 'Workload and port', value: (call) => call.workload, cell: (call) => html`${link('node', call.workload)}:${call.port}` },
  { title: 'Rate', number: true, value: (call) => call.requestsPerSecond, cell: (call) => between({ source: call.source, destination: call.service }, words.rate(call.requestsPerSecond)) },
  { title: '403 seen', number: true, value: (call) => call.forbiddenPercent, cell: (call) => (call.forbiddenPercent > 0 ? badge('denied', words.percent(call.forbiddenPercent)) : words.percent(call.forbiddenPercent)) },
  { title: 'May send', value: (call) => call.passes, cell: (call) => badge(...PASSES[call.passes]) },
  { title: 'Denied, for example', cell: (call) => html`${example(call.denied)}${call.denied && call.policies.length > 0
    ? html`<br><span class="faint">in force there: ${call.policies.map((policy, at) => [at > 0 ? ', ' : '', linked(policy)])}</span>` : nothing}` },
  { title: 'Allowed, for example', cell: (call) => example(call.allowed) },
];

const notDescribed = () => html`<p class="empty">The rules are not known. Start <code>heddle dashboard</code> with <code>-f</code> and the folder that the control plane reads.</p>`;

function access() {
  if (!state.objects.described) return notDescribed();
  const { calls, leftOut } = state.access;
  const rows = calls.filter((call) => (inNamespace(call.source.namespace) || inNamespace(call.service.namespace))
    && matches(keyOf(call.source), keyOf(call.service), call.workload));
  const caption = `${words.count(rows.length, 'call')} that sidecars have seen, most 403s first, by the policies in force now${leftOut > 0 ? `; ${leftOut} more are not decided` : ''}. A workload shows all that may call it.`;
  return table('access', caption, accessColumns, rows);
}

/// Traffic is not counted by rule: shares can be compared with weights where one rule has all requests.
const single = ({ rules }) => rules.length === 1;

function routes() {
  if (!state.objects.described) return notDescribed();
  const own = state.routes.filter(({ service }) => inNamespace(service.split('/')[0]) && matches(service));
  const rows = own.flatMap((of) => of.rules.map((rule) => ({ ...of, rule })));
  const backends = (show) => ({ rule }) => rule.backends.map((backend) => html`<div class="line">${show(backend)}</div>`);
  return table('routes', `${words.count(rows.length, 'rule')} in force, by precedence; services without a split, route or policy are left out`, [
    { title: 'Service', value: ({ service }) => service, cell: ({ service, rule }) => html`${link('node', service)}:${rule.port}` },
    { title: 'Rule', value: ({ rule }) => rule.rule, cell: ({ rule }) => linked(rule.rule) },
    { title: 'Match', cell: ({ rule }) => html`${rule.match}${rule.callers ? html`<div class="faint">callers of ${rule.callers}</div>` : nothing}` },
    { title: 'Backends', cell: (row) => row.rule.answer ?? backends((of) => link('node', serviceOf(of.backend), of.backend))(row) },
    { title: 'Weight in force', cell: backends((of) => bar(of.percent)) },
    { title: 'Measured', cell: (row) => (single(row) ? backends((of) => bar(measured(row.service, serviceOf(of.backend)), 'measured'))(row) : '-') },
    { title: 'Also', cell: ({ rule }) => html`${rule.timeouts ? html`<div>timeouts: ${rule.timeouts}</div>` : nothing}${rule.mirrors.map((text) => html`<div>mirrors ${text}</div>`)}
      ${rule.also.map(({ title, text }) => html`<div>${title}: ${text}</div>`)}${rule.policies.map((policy) => html`<div>${linked(policy)}</div>`)}` },
  ], rows);
}

export function certificate(times) {
  if (!times) return html`<span class="faint">not known</span>`;
  const { age, left, health } = lifetime(times);
  return html`${badge(health, `${left} left`)} <span class="faint">age ${age}</span>`;
}

const rootColumns = [
  { title: 'Root (SHA-256)', cell: (root) => html`<span class="mono">${root.fingerprint.slice(0, 16)}…</span>` },
  { title: 'Certificate', cell: certificate },
  { title: 'Valid until', cell: (root) => moment(root.notAfter) },
];

export const sidecarColumns = [
  { title: 'Sidecar', value: (one) => one.proxy, cell: (one) => link('sidecar', one.proxy) },
  { title: 'State', value: (one) => one.state, cell: (one) => badge(one.well ? 'good' : 'bad', one.state) },
  { title: 'Workload', value: (one) => one.workload, cell: (one) => (one.workload ? link('node', one.workload) : '-') },
  { title: 'Certificate', value: (one) => one.certificate?.notAfter, cell: (one) => certificate(one.certificate) },
  { title: 'Identity', value: (one) => one.identity, cell: (one) => one.identity || '-' },
  { title: 'Resources', number: true, value: (one) => one.resources, cell: (one) => link('sidecar', one.proxy, String(one.resources)) },
  { title: 'Replica', value: (one) => one.replica, cell: (one) => one.replica },
  { title: 'Envoy', value: (one) => one.version, cell: (one) => one.version || '-' },
];

function sidecars() {
  const { proxies, roots } = state.objects;
  const own = proxies.filter((one) => inNamespace(one.proxy.split('/')[0]) && matches(one.proxy, one.identity));
  const wrong = own.filter((one) => !one.well).length;
  return html`${table('sidecars', `${words.count(own.length, 'sidecar')}, ${wrong === 0 ? 'all in sync' : `${wrong} not in sync`}`, sidecarColumns, own)}
    ${table('roots', words.count(roots.length, 'root of the mesh', 'roots of the mesh'), rootColumns, roots)}`;
}

export const wrongConditions = (object) => object.conditions.filter((one) => !one.good);

export const objectColumns = [
  { title: 'Object', value: objectKey, cell: (row) => link('object', objectKey(row), `${row.kind} ${row.namespace ? `${row.namespace}/` : ''}${row.name}`) },
  { title: 'Weights in force', value: (row) => row.weights, cell: (row) => (row.weights ? link('object', objectKey(row), row.weights) : '-') },
  {
    title: 'State',
    value: (row) => wrongConditions(row).length,
    cell: (row) => (wrongConditions(row).length === 0 ? badge('good', 'in force')
      : wrongConditions(row).map((one) => html`<div>${badge('bad', `${one.type}=${one.status} ${one.reason}`)} ${one.message}</div>`)),
  },
];

function objects() {
  const shown = state.objects.objects.filter((one) => (one.namespace === '' || inNamespace(one.namespace)) && matches(objectKey(one)));
  return table('objects', words.count(shown.length, 'object'), objectColumns, shown);
}

const SEVERITY = { error: 'bad', warning: 'poor' };

function findings() {
  const all = state.objects.findings.filter((one) => matches(one.object, one.message));
  if (all.length === 0) return html`<p class="empty">${badge('good', 'The compiler has found nothing wrong.')}</p>`;
  return table('findings', words.count(all.length, 'finding'), [
    { title: 'Severity', value: (row) => row.severity, cell: (row) => (SEVERITY[row.severity] ? badge(SEVERITY[row.severity], row.severity) : row.severity) },
    { title: 'Object', value: (row) => row.object, cell: (row) => linked(row.object) },
    { title: 'Field', cell: (row) => row.field || '-' },
    { title: 'Message', cell: (row) => row.message },
    { title: 'Fix', cell: (row) => row.fix || '-' },
  ], all);
}

export const views = { traffic, access, routes, sidecars, objects, findings };
