// Draws the graph as SVG: a small one with cards, labels and moving edges, a large one as circles by namespace.

import { curveMonotoneX, line, select, zoom, zoomIdentity } from './libraries/d3.js';
import { html, nothing, render, repeat, svg } from './libraries/lit.js';
import { NODE, place } from './placement.js';
import { go, route } from './state.js';
import { OUTSIDE, SYMBOLS, words } from './words.js';

/// With more edges none moves: the browser would do little else.
const MOVING = 60;
/// Edges of a large graph that one path draws.
const JOINED = 100;
const LONGEST = 22;
/// Below this scale names are too small to read, and only cost time.
const READABLE = 0.55;
/// The height of the legend, and of all space above and below the graph, in pixels.
const [FOOT, MARGIN] = [36, 76];
const STATES = ['good', 'poor', 'bad', 'denied', 'inner'];

let placed = null;
/// The names in the graph that is to be drawn, and in the one that is.
let [shape, laid] = ['', ''];
let waiting = Promise.resolve();
/// The graph that is drawn, and the newest one.
let graph = { nodes: [], edges: [], byKey: new Map() };
let latest = graph;
let [canvas, scene, zoomed] = [null, null, null];
let fold = () => {};
let drawn = () => {};
/// The part that Tab reaches; arrows move it.
let current = '';

export const cut = (text, most = LONGEST) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const curve = line((point) => point.x, (point) => point.y).curve(curveMonotoneX);

const LOCK = 'M2 5V3.5a3 3 0 0 1 6 0V5h1v6H1V5zM3.5 5h3V3.5a1.5 1.5 0 0 0-3 0z';
const OPEN_LOCK = 'M1 5h6V3.5a1.5 1.5 0 0 0-3 0H2.5a3 3 0 0 1 6 0V5H9v6H1z';

function lines({ inner, state, figures, share }) {
  if (inner) return [`${words.rate(figures.rate)}${share === null ? '' : ` · ${words.percent(share)}`}`];
  const outcome = state === 'denied' ? `403 ${words.percent(figures.forbidden)}` : words.percent(figures.success);
  const first = `${SYMBOLS[state]} ${words.rate(figures.rate)} · ${outcome}`;
  return figures.p99 === null ? [first] : [first, `${words.millis(figures.p50)} · p99 ${words.millis(figures.p99)}`];
}

function named(edge) {
  const { figures } = edge;
  const how = { yes: 'by mutual TLS', no: 'in plain text' }[figures.mtls] ?? '';
  return `${edge.from} to ${edge.to}: ${[...lines(edge), how].filter((text) => text !== '').join(', ')}`;
}

const tab = (key) => (key === current ? 0 : -1);
const chosen = (kind, key) => (route().open === `${kind}:${key}` ? ' chosen' : '');
const open = (kind, key) => () => go({ open: `${kind}:${key}` });

function drawEdge(edge, moving) {
  const at = placed.edges.get(edge.key);
  if (!at) return nothing;
  const path = curve(at.points);
  const text = lines(edge);
  const lock = edge.inner ? '' : { yes: LOCK, no: OPEN_LOCK }[edge.figures.mtls] ?? '';
  const speed = Math.min(4, 1 + Math.floor(Math.log10(1 + edge.figures.rate) * 1.5));
  const width = 14 + 6.1 * Math.max(...text.map((one) => one.length)) + (lock ? 14 : 0);
  const height = 5 + 13 * text.length;
  return svg`<g class="edge ${edge.state}${chosen('edge', edge.key)}" tabindex=${tab(edge.key)} role="button" aria-label=${named(edge)} data-key=${edge.key}
      data-kind="edge" @click=${open('edge', edge.key)}>
    <path class="reach" d=${path}></path>
    <path class="wire" d=${path} marker-end="url(#arrow-${edge.state})"></path>
    ${moving && !edge.inner && edge.figures.rate > 0 ? svg`<path class="flow flow-${speed}" d=${path}></path>` : nothing}
    <g class="label" transform="translate(${at.x} ${at.y})">
      <rect x=${-width / 2} y=${-height / 2} width=${width} height=${height} rx="6"></rect>
      ${lock ? svg`<path class="lock ${edge.figures.mtls}" transform="translate(${-width / 2 + 6} ${-height / 2 + 3.5})" d=${lock}></path>` : nothing}
      ${text.map((one, row) => svg`<text x=${lock && row === 0 ? 7 : 0} y=${-height / 2 + 13 + 13 * row}>${one}</text>`)}
    </g>
  </g>`;
}

function below(node) {
  if (node.folded) return `${words.count(node.members.size, 'part')}, folded`;
  if (node.key === OUTSIDE) return 'no identity of the mesh';
  const kind = [...node.kinds].sort().join(' and ');
  return node.rows.length > 0 ? `${kind} · ${words.rate(node.figures.rate)}` : kind;
}

const partOf = (node, extra) => `node ${node.state}${node.folded ? ' folded' : ''}${node.key === OUTSIDE ? ' outside' : ''}${chosen('node', node.key)}${extra}`;

function drawNode(node) {
  const at = placed.nodes.get(node.key);
  if (!at) return nothing;
  const { width, height } = NODE;
  const symbol = SYMBOLS[node.state];
  return svg`<g class=${partOf(node, node.kinds.has('service') ? ' service' : ' workload')} transform="translate(${at.x - width / 2} ${at.y - height / 2})"
      tabindex=${tab(node.key)} role="button" aria-label="${node.key}, ${below(node)}" data-key=${node.key} data-kind="node" @click=${open('node', node.key)}>
    <title>${node.key}</title>
    <rect class="card" width=${width} height=${height} rx=${node.kinds.has('service') || node.folded ? 8 : height / 2}></rect>
    <text class="name" x=${width / 2} y="21">${cut(node.name)}</text>
    <text class="small" x=${width / 2} y="38">${symbol ? `${symbol} ` : ''}${cut(below(node), 28)}</text>
  </g>`;
}

function drawCircle(node) {
  const at = placed.nodes.get(node.key);
  if (!at) return nothing;
  const name = cut(node.name, 16);
  const rate = node.rows.length > 0 ? words.rate(node.figures.rate) : '';
  // The label begins as the text, for people who speak what they see.
  const shown = [SYMBOLS[node.state], name, rate].filter((text) => text !== '').join(' ');
  const size = Math.min(at.r / 3.2, (1.8 * at.r) / (0.62 * name.length));
  return svg`<g class=${partOf(node, ' circle')} transform="translate(${at.x} ${at.y})" font-size=${size} tabindex=${tab(node.key)} role="button"
      aria-label="${shown}, ${node.key}, ${below(node)}, ${words.percent(node.figures.success)} success" data-key=${node.key} data-kind="node" @click=${open('node', node.key)}>
    <title>${node.key}</title>
    <circle r=${at.r}></circle>
    <text class="mark" y=${-size * 0.7}>${SYMBOLS[node.state]}</text>
    <text class="name" y=${size * 0.5}>${name}</text>
    <text class="small" y=${size * 1.7}>${rate}</text>
  </g>`;
}

function bow(edge) {
  const [from, to] = [placed.nodes.get(edge.from), placed.nodes.get(edge.to)];
  if (!from || !to) return '';
  const [x, y] = [(from.x + to.x) / 2 + (to.y - from.y) * 0.15, (from.y + to.y) / 2 - (to.x - from.x) * 0.15];
  return `M${from.x.toFixed(0)} ${from.y.toFixed(0)}Q${x.toFixed(0)} ${y.toFixed(0)} ${to.x.toFixed(0)} ${to.y.toFixed(0)}`;
}

/// Thousands of edges are few elements: those of a state are joined.
function wires() {
  return STATES.map((kind) => {
    const edges = graph.edges.filter((edge) => edge.state === kind);
    const joined = [];
    for (let at = 0; at < edges.length; at += JOINED) joined.push(edges.slice(at, at + JOINED).map(bow).join(''));
    return joined.map((d) => svg`<path class="wires ${kind}" d=${d}></path>`);
  });
}

/// The edges of the node under the pointer, or of the chosen one.
function near(key) {
  const own = graph.edges.filter((edge) => edge.from === key || edge.to === key || edge.key === key);
  return own.map((edge) => svg`<path class="wires near ${edge.state}" d=${bow(edge)} marker-end="url(#arrow-${edge.state})"></path>`);
}

const arrow = (kind) => svg`<marker id="arrow-${kind}" class="arrow ${kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse"
  orient="auto"><path d="M0 0L8 4L0 8Z"></path></marker>`;

function small() {
  const moving = graph.edges.length <= MOVING;
  return svg`${repeat(graph.edges, (edge) => edge.key, (edge) => drawEdge(edge, moving))}${repeat(graph.nodes, (node) => node.key, drawNode)}`;
}

function large() {
  const groups = placed.groups.filter((group) => group.key !== '' && !placed.nodes.has(`${group.key}/`));
  return svg`
    ${groups.map((group) => svg`<circle class="group" cx=${group.x} cy=${group.y} r=${group.r}></circle>`)}
    <g class="all-wires">${wires()}</g>
    ${repeat(graph.nodes, (node) => node.key, drawCircle)}
    <g class="near-wires">${near(route().key)}</g>
    ${groups.map((group) => svg`<text class="group-name" font-size=${Math.max(16, group.r / 4)} x=${group.x} y=${group.y - group.r - 10}>${group.key}</text>`)}`;
}

function paint() {
  if (!scene || !placed) return;
  const focused = focusedKey();
  const keys = new Set([...graph.nodes, ...graph.edges].map((part) => part.key));
  if (!keys.has(current)) current = graph.nodes[0]?.key ?? '';
  canvas.classList.toggle('large', placed.large);
  render(svg`<defs>${STATES.map(arrow)}</defs>${placed.large ? large() : small()}`, scene);
  // A browser takes the focus from an element that moves in the tree, or leaves it.
  if (focused !== undefined && focusedKey() === undefined) (element(focused) ?? element(current))?.focus({ preventScroll: true });
}

/// Draws a graph. It is laid out again only if nodes or edges come or go, so that it stands still while the numbers move. Until the layout is
/// ready, the graph of before stays: parts without a place are not drawn, and could not keep the focus.
export function show(next) {
  latest = next;
  const now = JSON.stringify([next.nodes.map((node) => node.key).sort(), next.edges.map((edge) => edge.key).sort()]);
  if (laid === now) graph = next;
  if (now === shape) return paint();
  shape = now;
  waiting = waiting.then(async () => {
    // A newer graph waits behind this one.
    if (shape !== now) return;
    const [own, before] = [latest, placed];
    try {
      placed = await place(own);
    } catch (error) {
      // The next graph of these names is laid out again.
      if (shape === now) shape = laid;
      console.error(error);
      return;
    }
    [graph, laid] = [shape === now ? latest : own, now];
    paint();
    if (before === null || before.large !== placed.large || shape === now) fit();
    if (own.nodes.length > 0) drawn();
  });
}

export function zoomBy(factor) {
  select(canvas).call(zoomed.scaleBy, factor);
}

export function fit() {
  const size = canvas?.getBoundingClientRect();
  if (!placed || !size?.width || placed.nodes.size === 0) return;
  const { x, y, width, height } = placed.box;
  const scale = Math.min(1.15, (size.width - 24) / width, (size.height - MARGIN) / height);
  const [left, top] = [(size.width - width * scale) / 2 - x * scale, (size.height - FOOT - height * scale) / 2 - y * scale];
  select(canvas).call(zoomed.transform, zoomIdentity.translate(left, top).scale(scale));
}

function centers() {
  const places = [...placed.nodes, ...placed.edges].map(([key, { x, y }]) => ({ key, x, y }));
  return new Map(places.map((one) => [one.key, one]));
}

/// The nearest part in the direction of an arrow.
function beside(key, [dx, dy]) {
  const all = centers();
  const from = all.get(key);
  let best = null;
  for (const to of all.values()) {
    const along = (to.x - from.x) * dx + (to.y - from.y) * dy;
    const across = Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx);
    if (to.key !== key && along > 1 && (best === null || along + 2 * across < best.cost)) best = { key: to.key, cost: along + 2 * across };
  }
  return best?.key;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const element = (key) => scene?.querySelector(`[data-key="${CSS.escape(key)}"]`);
const focusedKey = () => (scene.contains(document.activeElement) ? document.activeElement.dataset.key : undefined);

/// Moves the focus to a part, by default the one that Tab reaches. Returns false if the graph has no such part.
export function focus(key = current) {
  if (!element(key)) return false;
  current = key;
  paint();
  element(key).focus({ preventScroll: true });
  return true;
}

function press(event) {
  const part = event.target.closest('[data-key]');
  if (!part) return;
  const { key, kind } = part.dataset;
  if (event.key in ARROWS) focus(beside(key, ARROWS[event.key]) ?? key);
  else if (event.key === 'Enter' || event.key === ' ') open(kind, key)();
  else if (event.key === 'f' && kind === 'node') fold(graph.byKey.get(key));
  else return;
  event.preventDefault();
}

function hover(event) {
  if (!placed?.large) return;
  const key = event.target.closest?.('[data-key]')?.dataset.key ?? route().key;
  const wires = scene.querySelector('.near-wires');
  if (wires) render(svg`${near(key)}`, wires);
}

/// Takes over the elements of the view.
export function mount(root, { onFold, onDrawn }) {
  canvas = root;
  scene = canvas.querySelector('.scene');
  [fold, drawn] = [onFold, onDrawn];
  zoomed = zoom().scaleExtent([0.03, 4]).on('zoom', ({ transform }) => {
    scene.setAttribute('transform', transform);
    canvas.classList.toggle('far', transform.k < READABLE);
  });
  select(canvas).call(zoomed).on('dblclick.zoom', null);
  canvas.addEventListener('keydown', press);
  canvas.addEventListener('pointerover', hover);
  new ResizeObserver(fit).observe(canvas);
}

export const legend = () => html`<ul class="legend" aria-label="Legend">
  <li class="good">✓ 99 % and more succeed</li><li class="poor">! 90 to 99 %</li><li class="bad">✕ less than 90 %</li><li class="denied">⊘ refused by a policy or the application (403)</li>
  <li><svg viewBox="0 0 10 12" aria-hidden="true"><path d=${LOCK}></path></svg> mutual TLS</li>
  <li><svg viewBox="0 0 10 12" aria-hidden="true"><path d=${OPEN_LOCK}></path></svg> plain text</li>
  <li>dashed: split, or workload of a service</li></ul>`;
