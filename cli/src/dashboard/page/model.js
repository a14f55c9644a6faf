// The graph of nodes and edges, made from the traffic: namespaces folded or not, rates added up.

import { OUTSIDE, health, keyOf } from './words.js';

/// From this share of 403s, in percent, an edge shows them in place of its success.
const REFUSED = 5;

export const rateOf = (row) => row.requestsPerSecond + row.connectionsPerSecond;

/// The figures of several edges together. Percentiles do not add up: the worst one is shown.
export function sum(rows) {
  const rate = rows.reduce((all, row) => all + rateOf(row), 0);
  const mean = (name, of) => {
    const counted = rows.filter((row) => row[name] !== null);
    const weight = counted.reduce((all, row) => all + of(row), 0);
    return weight > 0 ? counted.reduce((all, row) => all + of(row) * row[name], 0) / weight : null;
  };
  const plain = rows.filter((row) => row.mtls === 'no').reduce((all, row) => all + rateOf(row), 0);
  const worst = (name) => rows.reduce((worst, row) => (row[name] === null ? worst : Math.max(worst ?? 0, row[name])), null);
  return {
    rate,
    success: mean('successPercent', rateOf),
    forbidden: mean('forbiddenPercent', (row) => row.requestsPerSecond),
    p50: worst('p50Ms'),
    p99: worst('p99Ms'),
    plain: rate > 0 ? (100 * plain) / rate : 0,
    mtls: ['no', 'unknown', 'yes'].find((mtls) => rows.some((row) => row.mtls === mtls)),
  };
}

export const edgeKey = (from, to) => `${from} → ${to}`;

/// Refused requests are no failures, and yet what people look for.
export function stateOf({ success, forbidden }) {
  const state = health(success);
  return state === 'good' && forbidden >= REFUSED ? 'denied' : state;
}

export function build(traffic, namespace, folded) {
  const nodes = new Map();
  const edges = new Map();
  const place = (end, kind) => {
    const fold = end.name !== '' && folded.has(end.namespace);
    const key = fold ? `${end.namespace}/` : keyOf(end);
    if (!nodes.has(key)) {
      const name = fold ? end.namespace : end.name || OUTSIDE;
      nodes.set(key, { key, name, namespace: end.namespace, folded: fold, members: new Set(), kinds: new Set(), rows: [] });
    }
    const node = nodes.get(key);
    node.members.add(keyOf(end));
    if (kind) node.kinds.add(kind);
    return key;
  };
  const join = (from, to, inner, row) => {
    if (from === to) return;
    const key = edgeKey(from, to);
    if (!edges.has(key)) edges.set(key, { key, from, to, inner: true, rows: [] });
    const edge = edges.get(key);
    edge.inner &&= inner;
    edge.rows.push(row);
  };
  const shown = (end) => namespace === '' || end.namespace === namespace;
  for (const row of traffic.edges) {
    if (!shown(row.source) && !shown(row.destination)) continue;
    const to = place(row.destination, 'service');
    nodes.get(to).rows.push(row);
    join(place(row.source, row.source.name === '' ? '' : 'workload'), to, false, row);
    if (row.backend) join(to, place(row.backend, 'service'), true, row);
  }
  for (const row of traffic.servers) {
    // Only behind services that are in the graph.
    if (!nodes.has(keyOf(row.service)) || !shown(row.service)) continue;
    join(place(row.service, 'service'), place(row.workload, 'workload'), true, row);
  }
  for (const node of nodes.values()) {
    node.figures = sum(node.rows);
    node.state = node.rows.length === 0 ? 'idle' : health(node.figures.success);
  }
  for (const edge of edges.values()) {
    edge.figures = sum(edge.rows);
    // Of a branch of a split: its share of the requests to the service.
    const all = nodes.get(edge.from).figures.rate;
    edge.share = edge.rows.every((row) => row.backend) && all > 0 ? (100 * edge.figures.rate) / all : null;
    edge.state = edge.inner ? 'inner' : stateOf(edge.figures);
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()], byKey: nodes };
}
