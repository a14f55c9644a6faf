// The page: its head, views and panel, drawn again whenever an answer or the address changes.

import { fit, focus, legend, mount, show, zoomBy } from './graph.js';
import { html, live, nothing, render } from './libraries/lit.js';
import { build, sum } from './model.js';
import { content } from './panel.js';
import { TABS, go, href, onChange, readTraffic, route, start, state, update } from './state.js';
import { inNamespace, views } from './tables.js';
import { SYMBOLS, health, keyOf, lifetime, words } from './words.js';

/// A larger graph begins with its namespaces folded.
const FOLD_FROM = 60;

let graph = { nodes: [], edges: [], byKey: new Map() };
let opened = '';
/// The part that opened the panel, to which focus returns.
let opener = null;

const namespaces = () => {
  const ends = state.traffic.edges.flatMap((row) => [row.source, row.destination]);
  const names = [...ends, ...state.objects.objects].map((one) => one.namespace);
  return [...new Set([...names, route().namespace])].filter((name) => name !== '').sort();
};

function tabs() {
  const { tab } = route();
  const names = Object.keys(TABS);
  const turn = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names.at((names.indexOf(tab) + step) % names.length);
    go({ tab: next });
    setTimeout(() => document.getElementById(`tab-${next}`).focus());
  };
  return html`<div role="tablist" aria-label="Views" @keydown=${turn}>${names.map((name) => html`
    <button role="tab" id="tab-${name}" aria-controls="view" aria-selected=${name === tab} tabindex=${name === tab ? 0 : -1} @click=${() => go({ tab: name })}>${TABS[name]}${count(name)}</button>`)}</div>`;
}

/// What is wrong, at the tab that shows it.
function count(tab) {
  const wrong = {
    access: state.access.calls.filter((call) => call.forbiddenPercent > 0).length,
    sidecars: state.objects.proxies.filter((one) => !one.well).length,
    objects: state.objects.objects.filter((one) => one.conditions.some((of) => !of.good)).length,
    findings: state.objects.findings.filter((one) => one.severity !== 'info').length,
  }[tab];
  return wrong > 0 ? html` <span class="count">${wrong}</span>` : nothing;
}

function head() {
  const { namespace } = route();
  return html`<header>
    <h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M5 2v20M12 2v20M19 2v20M2 8h6c4 0 4 8 8 8h6M2 16h6c4 0 4-8 8-8h6"></path></svg>Heddle</h1>
    ${tabs()}
    <div class="choices">
      <input type="search" placeholder="Find a name" aria-label="Find a name" .value=${live(state.search)} @input=${(event) => update({ search: event.target.value })} @keydown=${find}>
      <label>Namespace <select .value=${live(namespace)} @change=${(event) => go({ namespace: event.target.value })}>
        <option value="" ?selected=${namespace === ''}>all</option>${namespaces().map((name) => html`<option value=${name} ?selected=${name === namespace}>${name}</option>`)}</select></label>
      <label>Over <select @change=${(event) => { state.window = event.target.value; readTraffic(); }}>
        <option value="30">30 s</option><option value="60" selected>1 min</option><option value="300">5 min</option><option value="900">15 min</option></select></label>
      <button class="theme" aria-label="Switch between light and dark" @click=${() => theme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark')}>◐</button>
    </div>
  </header>`;
}

/// Enter in the search opens the first part with the name.
function find(event) {
  if (event.key !== 'Enter' || state.search === '') return;
  const text = state.search.toLowerCase();
  const found = graph.nodes.find((node) => node.name.toLowerCase() === text) ?? graph.nodes.find((node) => node.key.toLowerCase().includes(text))
    ?? graph.nodes.find((node) => [...node.members].some((name) => name.toLowerCase().includes(text)));
  if (found) go({ open: `node:${found.folded ? [...found.members].find((name) => name.toLowerCase().includes(text)) ?? found.key : found.key}` });
}

const card = (tab, title, value, kind, below) => html`<a class="card ${kind}" href=${href({ tab })}><span>${title}</span><strong>${SYMBOLS[kind] ?? ''} ${value}</strong><span>${below}</span></a>`;

function cards() {
  const rows = state.traffic.edges.filter((row) => inNamespace(row.source.namespace) || inNamespace(row.destination.namespace));
  const all = sum(rows);
  const covered = rows.filter((row) => row.mtls !== 'unknown');
  const [plain, known] = [sum(covered.filter((row) => row.mtls === 'no')).rate, sum(covered).rate];
  const share = known > 0 ? (100 * (known - plain)) / known : null;
  const { proxies, roots, findings, objects } = state.objects;
  const wrong = proxies.filter((one) => !one.well).length;
  const bad = objects.filter((one) => one.conditions.some((of) => !of.good)).length;
  const root = roots.map((one) => lifetime(one)).sort((one, other) => one.share - other.share)[0];
  const errors = findings.filter((one) => one.severity !== 'info').length;
  return html`<nav class="cards" aria-label="Summary">
    ${card('traffic', 'Requests', words.rate(all.rate), 'plain', words.count(rows.length, 'edge'))}
    ${card('traffic', 'Success', words.percent(all.success), all.success === null ? 'plain' : health(all.success), `p99 ${words.millis(all.p99)} at worst`)}
    ${card('access', 'Answered 403', words.percent(all.forbidden), all.forbidden > 0 ? 'denied' : 'plain', words.count(new Set(rows.filter((row) => row.forbiddenPercent > 0).map((row) => keyOf(row.source))).size, 'caller refused', 'callers refused'))}
    ${card('traffic', 'Mutual TLS', words.percent(share), share === null ? 'plain' : share > 99.999 ? 'good' : 'poor', 'of traffic that servers saw')}
    ${card('sidecars', 'Sidecars in sync', `${proxies.length - wrong}/${proxies.length}`, wrong > 0 ? 'bad' : 'good', root ? `root: ${root.left} left` : 'no root known')}
    ${card(bad > 0 ? 'objects' : 'findings', 'Objects in force', `${objects.length - bad}/${objects.length}`, bad > 0 ? 'bad' : 'good', words.count(errors, 'finding'))}
  </nav>`;
}

function status() {
  const missing = (state.traffic.replicas ?? []).filter((one) => one.error).map((one) => `${one.replica}: ${one.error}`);
  return html`<p class="status" role="status">${[...Object.values(state.wrong), ...missing].join('; ')}</p>`;
}

function toggle(node) {
  if (!node || node.namespace === '') return;
  const folded = new Set(state.folded);
  if (!folded.delete(node.namespace)) folded.add(node.namespace);
  update({ folded });
}

function graphView() {
  const hidden = route().tab !== 'graph';
  const foldAll = () => update({ folded: state.folded.size > 0 ? new Set() : new Set(namespaces()) });
  return html`<section class="graph" role=${hidden ? nothing : 'tabpanel'} id=${hidden ? nothing : 'view'} aria-labelledby=${hidden ? nothing : 'tab-graph'} ?hidden=${hidden}>
    <svg class="canvas" role="group" aria-label="Service graph; arrows move through its parts, Enter shows details, F folds a namespace"><g class="scene"></g></svg>
    <div class="tools" role="group" aria-label="View of the graph">
      <button aria-label="Zoom in" @click=${() => zoomBy(1.3)}>+</button><button aria-label="Zoom out" @click=${() => zoomBy(1 / 1.3)}>−</button>
      <button @click=${fit}>Fit</button><button @click=${foldAll}>${state.folded.size > 0 ? 'Unfold namespaces' : 'Fold namespaces'}</button>
    </div>
    ${legend()}
    ${graph.nodes.length === 0 && state.loaded ? html`<p class="empty over">No sidecar has reported traffic in this time. Requests show after 10 seconds.</p>` : nothing}
  </section>`;
}

function panel() {
  const found = content(route(), graph);
  if (!found) return html`<aside hidden></aside>`;
  const node = graph.byKey.get(route().key);
  return html`<aside aria-labelledby="panel-title">
    <button class="close" aria-label="Close details" @click=${close}>✕</button>
    <p class="faint">${found.kind}</p><h2 id="panel-title" tabindex="-1">${found.title}</h2>
    ${node && node.namespace !== '' ? html`<button @click=${() => toggle(node)}>${node.folded ? 'Unfold' : 'Fold'} namespace ${node.namespace}</button>` : nothing}
    ${found.body}</aside>`;
}

function page() {
  const { tab } = route();
  return html`${head()}${cards()}${status()}<main>${graphView()}
    ${tab === 'graph' ? nothing : html`<section class="view" role="tabpanel" id="view" tabindex="0" aria-labelledby="tab-${tab}">${views[tab]()}</section>`}
    ${panel()}</main>`;
}

function draw() {
  if (state.loaded && !state.begun && state.traffic.edges.length > 0) {
    state.begun = true;
    if (build(state.traffic, '', new Set()).nodes.length > FOLD_FROM) state.folded = new Set(namespaces());
  }
  graph = build(state.traffic, route().namespace, state.folded);
  render(page(), document.body);
  if (route().tab === 'graph') show(graph);
}

let due = false;
function soon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

function close() {
  go({ open: '' });
}

/// Focus goes into a panel that opens, and back to where it was.
function moved() {
  draw();
  const { open } = route();
  if (open === opened) return;
  if (opened === '') opener = document.activeElement;
  opened = open;
  if (open !== '') document.getElementById('panel-title')?.focus();
  else if (!focus(opener?.dataset?.key ?? '')) {
    // The part may have left the graph while its panel was open.
    if (opener?.isConnected) opener.focus();
    else focus();
  }
}

function theme(name) {
  document.documentElement.dataset.theme = name;
}

const dark = matchMedia('(prefers-color-scheme: dark)');
theme(dark.matches ? 'dark' : 'light');
dark.addEventListener('change', () => theme(dark.matches ? 'dark' : 'light'));
onChange(soon);
draw();
mount(document.querySelector('.canvas'), { onFold: toggle, onDrawn: () => performance.mark('graph drawn') });
opened = route().open;
addEventListener('hashchange', moved);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && route().open !== '') close();
  if (event.key === '/' && !event.target.closest('input, select')) {
    event.preventDefault();
    document.querySelector('input[type="search"]').focus();
  }
});
start();
