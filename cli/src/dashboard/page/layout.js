// Places the nodes in columns: callers to the left of the services that they call. Returns the place of each node, and the
// places between the ends of each edge.

const COLUMN = 330;
const ROW = 76;
const SWEEPS = 6;
/// Of a graph with more edges none is led between the nodes: the places for it would be far more than the nodes.
export const MANY = 400;

/// The column of each node: one more than that of its callers. An edge that closes a circle does not count.
function columns(nodes, edges) {
  const out = new Map(nodes.map((node) => [node.key, []]));
  for (const edge of edges) out.get(edge.from).push(edge.to);
  const order = [];
  const state = new Map();
  const back = new Set();
  for (const node of nodes) {
    if (state.has(node.key)) continue;
    const stack = [[node.key, 0]];
    state.set(node.key, 'open');
    while (stack.length > 0) {
      const top = stack.at(-1);
      const next = out.get(top[0])[top[1]++];
      if (next === undefined) {
        state.set(top[0], 'done');
        order.push(top[0]);
        stack.pop();
      } else if (!state.has(next)) {
        state.set(next, 'open');
        stack.push([next, 0]);
      } else if (state.get(next) === 'open') {
        back.add(JSON.stringify([top[0], next]));
      }
    }
  }
  const column = new Map(nodes.map((node) => [node.key, 0]));
  for (const key of order.reverse()) {
    for (const next of out.get(key)) {
      if (back.has(JSON.stringify([key, next]))) continue;
      column.set(next, Math.max(column.get(next), column.get(key) + 1));
    }
  }
  return column;
}

/// Moves the nodes of each column beside their neighbors, so that few edges cross.
function sweep(layers, neighbors) {
  const position = new Map();
  const number = (layer) => layer.forEach((key, at) => position.set(key, at - layer.length / 2));
  layers.forEach(number);
  for (let round = 0; round < SWEEPS; round++) {
    for (const layer of round % 2 === 0 ? layers : [...layers].reverse()) {
      const mean = new Map(layer.map((key) => {
        const near = neighbors.get(key);
        const all = near.reduce((all, other) => all + position.get(other), 0);
        return [key, near.length > 0 ? all / near.length : position.get(key)];
      }));
      layer.sort((one, other) => mean.get(one) - mean.get(other) || (one < other ? -1 : 1));
      number(layer);
    }
  }
}

export function layout({ nodes, edges }) {
  const sorted = [...nodes].sort((one, other) => (one.key < other.key ? -1 : 1));
  const column = columns(sorted, edges);
  const layers = [];
  for (const node of sorted) (layers[column.get(node.key)] ??= []).push(node.key);
  const neighbors = new Map(sorted.map((node) => [node.key, []]));
  const chains = new Map();
  for (const { key, from, to } of edges) {
    // An edge over several columns has a place in each of them, so that it passes between nodes and not over them.
    const chain = [from];
    for (let x = column.get(from) + 1; edges.length <= MANY && x < column.get(to); x++) {
      const bend = `${key}#${x}`;
      layers[x].push(bend);
      neighbors.set(bend, []);
      chain.push(bend);
    }
    chain.push(to);
    chain.slice(1).forEach((next, at) => {
      neighbors.get(chain[at]).push(next);
      neighbors.get(next).push(chain[at]);
    });
    chains.set(key, chain.slice(1, -1));
  }
  sweep(layers, neighbors);
  const all = new Map();
  layers.forEach((layer, x) => layer.forEach((key, at) => {
    all.set(key, { x: x * COLUMN, y: (at - (layer.length - 1) / 2) * ROW });
  }));
  const places = new Map(sorted.map((node) => [node.key, all.get(node.key)]));
  const bends = new Map([...chains].map(([key, chain]) => [key, chain.map((bend) => all.get(bend))]));
  return { places, bends };
}
