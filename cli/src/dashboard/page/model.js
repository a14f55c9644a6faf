// The graph of nodes and edges, made from the traffic: namespaces folded or not, rates added up.

export const OUTSIDE = 'outside the mesh';

export const keyOf = (end) => (end.name === '' ? OUTSIDE : `${end.namespace}/${end.name}`);

export function health(share) {
  if (share === null || share === undefined || share >= 99) return 'good';
  return share >= 90 ? 'poor' : 'bad';
}

export const rateOf = (row) => row.requestsPerSecond + row.connectionsPerSecond;

export const words = {
  rate: (rate) => (rate >= 100 ? `${rate.toFixed(0)}/s` : `${rate.toFixed(1)}/s`),
  percent: (share) => (share === null ? '-' : share > 99.999 ? '100 %' : `${(Math.floor(share * 10) / 10).toFixed(1)} %`),
  millis: (ms) => (ms === null ? '-' : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(0)} s`),
};

/// The figures of several edges together. Percentiles do not add up: the worst one is shown.
export function sum(rows) {
  const rate = rows.reduce((all, row) => all + rateOf(row), 0);
  const mean = (name, of) => {
    const counted = rows.filter((row) => row[name] !== null);
    const weight = counted.reduce((all, row) => all + of(row), 0);
    return weight > 0 ? counted.reduce((all, row) => all + of(row) * row[name], 0) / weight : null;
  };
  const worst = (name) => rows.reduce((worst, row) => (row[name] === null ? worst : Math.max(worst ?? 0, row[name])), null);
  return {
    rate,
    success: mean('successPercent', rateOf),
    forbidden: mean('forbiddenPercent', (row) => row.requestsPerSecond),
    p50: worst('p50Ms'),
    p99: worst('p99Ms'),
    mtls: ['no', 'unknown', 'yes'].find((mtls) => rows.some((row) => row.mtls === mtls)),
  };
}

export function build(traffic, namespace, folded) {
  const nodes = new Map();
  const edges = new Map();
  const place = (end) => {
    const fold = end.name !== '' && folded.has(end.namespace);
    const key = fold ? `${end.namespace}/` : keyOf(end);
    if (!nodes.has(key)) {
      const name = fold ? end.namespace : end.name || OUTSIDE;
      nodes.set(key, { key, name, namespace: end.namespace, folded: fold, members: new Set() });
    }
    nodes.get(key).members.add(keyOf(end));
    return key;
  };
  const join = (from, to, inner, row) => {
    if (from === to) return;
    const key = JSON.stringify([from, to]);
    if (!edges.has(key)) edges.set(key, { key, from, to, inner: true, rows: [] });
    const edge = edges.get(key);
    edge.inner &&= inner;
    edge.rows.push(row);
  };
  const shown = (end) => namespace === '' || end.namespace === namespace;
  for (const row of traffic.edges) {
    if (!shown(row.source) && !shown(row.destination)) continue;
    const to = place(row.destination);
    join(place(row.source), to, false, row);
    if (row.backend) join(to, place(row.backend), true, row);
  }
  for (const row of traffic.servers) {
    // Only behind services that are in the graph.
    if (!nodes.has(keyOf(row.service)) || !shown(row.service)) continue;
    join(place(row.service), place(row.workload), true, row);
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()] };
}
