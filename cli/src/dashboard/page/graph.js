// Draws the graph as SVG, with moving edges, pan and zoom.

import { byId, svg } from './dom.js';
import { MANY, layout } from './layout.js';
import { health, sum, words } from './model.js';

const WIDTH = 170;
const HEIGHT = 44;
const LONGEST = 24;

const canvas = byId('canvas');
const scene = svg('g');
canvas.append(scene);

let shape = '';
let [places, bends] = [new Map(), new Map()];
let view = { x: 0, y: 0, scale: 1 };

const cut = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text);

function show() {
  scene.setAttribute('transform', `translate(${view.x} ${view.y}) scale(${view.scale})`);
}

export function zoom(factor, at) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = at ?? [box.width / 2, box.height / 2];
  const scale = Math.min(4, Math.max(0.05, view.scale * factor));
  const ratio = scale / view.scale;
  view = { x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio, scale };
  show();
}

export function fit() {
  const box = canvas.getBoundingClientRect();
  const all = [...places.values(), ...[...bends.values()].flat()];
  if (all.length === 0 || box.width === 0) return;
  const xs = all.map((place) => place.x);
  const ys = all.map((place) => place.y);
  const [left, top] = [Math.min(...xs) - 30, Math.min(...ys) - 40];
  const [width, height] = [Math.max(...xs) + WIDTH + 30 - left, Math.max(...ys) + HEIGHT + 40 - top];
  const scale = Math.min(1.25, box.width / width, box.height / height);
  view = { x: (box.width - width * scale) / 2 - left * scale, y: (box.height - height * scale) / 2 - top * scale, scale };
  show();
}

/// A part that mouse and keyboard choose.
function part(group, choose, fold) {
  group.addEventListener('click', choose);
  group.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' || event.key === ' ') choose();
    else if ((event.key === 'f' || event.key === 'F') && fold) fold();
    else return;
    event.preventDefault();
  });
  return group;
}

/// A curve through pairs of points, with a straight line within each bend.
function curve(points) {
  let path = `M ${points[0].x} ${points[0].y}`;
  for (let at = 1; at < points.length; at++) {
    const [start, end] = [points[at - 1], points[at]];
    const pull = Math.max(60, Math.abs(end.x - start.x) / 2);
    path += at % 2 === 0
      ? ` L ${end.x} ${end.y}`
      : ` C ${start.x + pull} ${start.y} ${end.x - pull} ${end.y} ${end.x} ${end.y}`;
  }
  return path;
}

function drawEdge(edge, plain, choose) {
  const [from, to] = [places.get(edge.from), places.get(edge.to)];
  const middle = HEIGHT / 2;
  const points = [{ x: from.x + WIDTH, y: from.y + middle }];
  for (const { x, y } of bends.get(edge.key)) points.push({ x, y: y + middle }, { x: x + WIDTH, y: y + middle });
  points.push({ x: to.x, y: to.y + middle });
  const [start, end] = points;
  const path = curve(points);
  const figures = sum(edge.rows);
  const state = edge.inner ? 'inner' : health(figures.success);
  const symbol = { good: '✓', poor: '!', bad: '✕', inner: '' }[state];
  const lock = { yes: ' mTLS', no: ' plain text', unknown: '' }[figures.mtls] ?? '';
  const denied = figures.forbidden > 0 ? ` · 403: ${words.percent(figures.forbidden)}` : '';
  const first = `${symbol} ${words.rate(figures.rate)}${edge.inner ? '' : `  ${words.percent(figures.success)}${lock}`}`;
  const second = figures.p99 === null ? denied : `${words.millis(figures.p50)} · p99 ${words.millis(figures.p99)}${denied}`;
  const [x, y] = [(start.x + end.x) / 2, (start.y + end.y) / 2];
  const label = `${edge.from} to ${edge.to}: ${first} ${second}`;
  const group = svg('g', { class: `edge ${state}`, tabindex: 0, role: 'button', 'aria-label': label, 'data-key': edge.key });
  group.append(svg('path', { class: 'wire', d: path }));
  if (plain) return part(group, () => choose.edge(edge));
  if (!edge.inner && figures.rate > 0) {
    const flow = svg('path', { class: 'flow', d: path });
    flow.style.animationDuration = `${Math.max(0.15, 2 / (1 + Math.log10(1 + figures.rate) * 3))}s`;
    group.append(flow);
  }
  group.append(svg('text', { x, y: y - 5 }, first));
  if (!edge.inner) group.append(svg('text', { x, y: y + 9 }, second));
  return part(group, () => choose.edge(edge));
}

function drawNode(node, choose) {
  const { x, y } = places.get(node.key);
  const below = node.folded ? `${node.members.size} parts, folded` : node.namespace;
  const group = svg('g', {
    class: `node${node.folded ? ' folded' : ''}`,
    transform: `translate(${x} ${y})`,
    tabindex: 0,
    role: 'button',
    'aria-description': node.key,
    'data-key': node.key,
  });
  group.append(
    svg('rect', { width: WIDTH, height: HEIGHT, rx: node.folded ? 2 : 10 }),
    svg('text', { x: 12, y: 18 }, cut(node.name)),
    svg('text', { x: 12, y: 34, class: 'small' }, cut(below)),
  );
  return part(group, () => choose.node(node), () => choose.fold(node));
}

/// Draws the graph. It is laid out again only if nodes or edges come or go, so that it stands still while the numbers move.
export function draw(graph, choose) {
  const now = JSON.stringify([graph.nodes.map((node) => node.key).sort(), graph.edges.map((edge) => edge.key).sort()]);
  const other = now !== shape;
  if (other) {
    shape = now;
    ({ places, bends } = layout(graph));
  }
  const focused = scene.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  scene.replaceChildren(
    // Many edges have neither motion nor text: they would hide each other, and slow the page down.
    ...graph.edges.map((edge) => drawEdge(edge, graph.edges.length > MANY, choose)),
    ...graph.nodes.map((node) => drawNode(node, choose)),
  );
  if (focused !== undefined) {
    [...scene.children].find((child) => child.dataset.key === focused)?.focus();
  }
  if (other) fit();
}

canvas.addEventListener('wheel', (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, [event.clientX - box.left, event.clientY - box.top]);
}, { passive: false });

canvas.addEventListener('pointerdown', (event) => {
  if (event.target !== canvas) return;
  canvas.setPointerCapture(event.pointerId);
  const [x, y] = [event.clientX - view.x, event.clientY - view.y];
  const move = (moved) => {
    [view.x, view.y] = [moved.clientX - x, moved.clientY - y];
    show();
  };
  canvas.addEventListener('pointermove', move);
  canvas.addEventListener('pointerup', () => canvas.removeEventListener('pointermove', move), { once: true });
});
