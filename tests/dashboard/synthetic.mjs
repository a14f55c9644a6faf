// Writes the runtime folder of a standalone control plane with a large mesh: the input of `heddle dashboard --runtime-dir`.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const BUCKETS = 20;

/// The same numbers at each run.
function random(seed) {
  let state = seed;
  return () => {
    state = (state * 16807) % 2147483647;
    return state / 2147483647;
  };
}

function counts(next) {
  const requests = 60 + Math.floor(next() * 60000);
  const fate = next();
  const failures = fate < 0.01 ? Math.floor(requests * 0.2) : fate < 0.03 ? Math.floor(requests * 0.05) : 0;
  const forbidden = fate > 0.98 ? Math.floor(requests * 0.5) : 0;
  const durations = Array(BUCKETS).fill(0);
  durations[2] = requests;
  return { responses: [0, 0, requests - failures - forbidden, 0, forbidden, failures], failures, forbidden, durations, connections: 0, receivedBytes: 0, sentBytes: 0 };
}

const identity = (namespace, account) => `spiffe://cluster.local/ns/${namespace}/sa/${account}`;

/// `services` services in namespaces of 25, with so many pairs of a caller and a service; four of five stay in the namespace. The first
/// service may have a name of its own.
export async function write(folder, services, edges, first = 'service-0000') {
  const next = random(42);
  const name = (at) => ({ namespace: `team-${String(Math.floor(at / 25)).padStart(2, '0')}`, name: at === 0 ? first : `service-${String(at).padStart(4, '0')}` });
  const pick = (from, to) => Math.floor(from + next() * (to - from));
  const seen = new Set();
  const all = [];
  while (seen.size < edges) {
    const from = pick(0, services);
    const own = Math.floor(from / 25) * 25;
    const to = next() < 0.8 ? pick(own, Math.min(services, own + 25)) : pick(0, services);
    if (from === to || seen.has(`${from} ${to}`)) continue;
    seen.add(`${from} ${to}`);
    const [caller, called] = [name(from), name(to)];
    const common = { serviceNamespace: called.namespace, service: called.name, protocol: 'http', firstSecondsAgo: 60, lastSecondsAgo: 2, ...counts(next) };
    const [one, other] = [identity(caller.namespace, caller.name), identity(called.namespace, called.name)];
    all.push({ reporter: 'source', namespace: caller.namespace, workload: caller.name, identity: one, peer: '', backend: `out|${called.namespace}/${called.name}|8080`, ...common });
    all.push({ reporter: 'destination', namespace: called.namespace, workload: called.name, identity: other, peer: one, backend: '', ...common });
  }
  const now = Math.floor(Date.now() / 1000);
  const proxies = Array.from({ length: services }, (_, at) => ({
    proxy: `${name(at).namespace}/${name(at).name}-5d8f`, connected: true, since: now - 3600, ready: true, inSync: true, behind: 0, resources: 40,
    rejected: [], version: 'envoy 1.40.0', identity: identity(name(at).namespace, name(at).name), certificate: { notBefore: now - 7200, notAfter: now + 79200 },
  }));
  const write = (file, value) => writeFile(join(folder, file), JSON.stringify(value));
  await write('edges.json', { version: 1, windowSeconds: 60, coveredSeconds: 60, edges: all, losses: {} });
  await write('proxies.json', proxies);
  await write('status.yaml', { items: [{ kind: 'Mesh', metadata: { name: 'default' } }], findings: [] });
}
