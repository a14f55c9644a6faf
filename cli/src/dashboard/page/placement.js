// Chooses where the nodes are. A small graph is laid out in columns by a worker; in a large one single edges cannot be
// followed, so that its services are circles, packed by namespace.

import { hierarchy, pack } from './libraries/d3.js';

export const NODE = { width: 178, height: 50 };
const LABEL = { width: 150, height: 34 };
const INNER = { width: 60, height: 16 };
/// A larger graph is packed: dagre needs seconds for it, and its edges hide each other.
const MOST = { nodes: 120, edges: 200 };
const RADIUS = 26;

const worker = new Worker(new URL('layout.js', import.meta.url), { type: 'module' });
let asked = 0;

export const isLarge = ({ nodes, edges }) => nodes.length > MOST.nodes || edges.length > MOST.edges;

const sorted = (all) => [...all].sort((one, other) => (one.key < other.key ? -1 : 1));

function columns(graph) {
  const id = ++asked;
  worker.postMessage({
    id,
    nodes: sorted(graph.nodes).map(({ key }) => ({ key, ...NODE })),
    edges: sorted(graph.edges).map(({ key, from, to, inner }) => ({ key, from, to, ...(inner ? INNER : LABEL) })),
  });
  return new Promise((done, failed) => {
    const answer = ({ data }) => {
      if (data.id !== id) return;
      worker.removeEventListener('message', answer);
      done({
        large: false,
        box: { x: 0, y: 0, width: data.width, height: data.height },
        nodes: new Map(data.nodes.map((one) => [one.key, one])),
        edges: new Map(data.edges.map((one) => [one.key, one])),
        groups: [],
      });
    };
    worker.addEventListener('message', answer);
    worker.addEventListener('error', failed, { once: true });
  });
}

function circles(graph) {
  const groups = new Map();
  for (const node of sorted(graph.nodes)) {
    const name = node.namespace;
    if (!groups.has(name)) groups.set(name, { name, children: [] });
    groups.get(name).children.push({ name: node.key, value: node.folded ? Math.max(1, node.members.size) : 1 });
  }
  const root = hierarchy({ name: '', children: [...groups.values()] }).sum((one) => one.value ?? 0);
  root.sort((one, other) => other.value - one.value || (one.data.name < other.data.name ? -1 : 1));
  pack().radius((leaf) => RADIUS * Math.sqrt(leaf.value)).padding((one) => (one.depth === 0 ? 60 : 14))(root);
  const at = ({ x, y, r, data }) => ({ key: data.name, x, y, r });
  return {
    large: true,
    box: { x: root.x - root.r, y: root.y - root.r, width: 2 * root.r, height: 2 * root.r },
    nodes: new Map(root.leaves().map((leaf) => [leaf.data.name, at(leaf)])),
    edges: new Map(),
    groups: root.children?.map(at) ?? [],
  };
}

export const place = async (graph) => (isLarge(graph) ? circles(graph) : columns(graph));
