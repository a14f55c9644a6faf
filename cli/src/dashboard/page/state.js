// The state of the page: the answers of the server, and the place that the address names (tab, namespace, open part), so that each
// place is a link and the back button works.

export const TABS = { graph: 'Graph', traffic: 'Traffic', access: 'Access', routes: 'Routes', sidecars: 'Sidecars', objects: 'Objects', findings: 'Findings' };

const TRAFFIC_EVERY = 3000;
const OBJECTS_EVERY = 15000;
const DETAILS_EVERY = 10000;

export const state = {
  traffic: { edges: [], servers: [], windowSeconds: 0 },
  objects: { proxies: [], roots: [], objects: [], findings: [], described: false },
  access: { calls: [], leftOut: 0 },
  routes: [],
  /// Descriptions by path, each with its error or document.
  details: new Map(),
  wrong: {},
  loaded: false,
  folded: new Set(),
  window: '60',
  search: '',
  sort: {},
  all: new Set(),
};

let changed = () => {};
export const onChange = (listener) => { changed = listener; };
export const update = (changes = {}) => {
  Object.assign(state, changes);
  changed();
};

/// The place that the address names.
export function route() {
  const all = new URLSearchParams(location.hash.slice(1));
  const open = all.get('open') ?? '';
  const cut = open.indexOf(':');
  return {
    tab: all.get('tab') in TABS ? all.get('tab') : 'graph',
    namespace: all.get('namespace') ?? '',
    open,
    kind: open.slice(0, Math.max(0, cut)),
    key: open.slice(cut + 1),
  };
}

/// The address of another place.
export function href(changes) {
  const { tab, namespace, open } = { ...route(), ...changes };
  const all = Object.entries({ tab, namespace, open }).filter(([, value]) => value !== '');
  return `#${new URLSearchParams(all)}`;
}

export const go = (changes) => { location.hash = href(changes); };

async function ask(path) {
  const answer = await fetch(path, { cache: 'no-store' });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text || answer.statusText);
  return JSON.parse(text);
}

async function read(what, path) {
  try {
    state[what] = await ask(path);
    delete state.wrong[what];
  } catch (error) {
    state.wrong[what] = `${what}: ${error.message}`;
  }
  state.loaded ||= what === 'traffic';
  changed();
}

export const readTraffic = () => read('traffic', `api/traffic?window=${state.window}`);
const readObjects = () => read('objects', 'api/objects');

/// All that needs the objects of the mesh. Without them it stays empty.
async function readRules() {
  if (!state.objects.described) return;
  await read('access', `api/access?window=${state.window}`);
  await read('routes', 'api/routes');
}

/// The description at a path; it is asked for again while it is shown.
export function description(path) {
  const known = state.details.get(path) ?? { at: -Infinity };
  if (performance.now() - known.at > DETAILS_EVERY) {
    known.at = performance.now();
    state.details.set(path, known);
    ask(`api/describe/${path}`).then(
      (document) => state.details.set(path, { at: performance.now(), document }),
      (error) => state.details.set(path, { at: performance.now(), error: error.message }),
    ).then(() => changed());
  }
  return known;
}

async function again(every, one) {
  for (;;) {
    // A hidden page asks nothing.
    if (!document.hidden) await one();
    await new Promise((done) => setTimeout(done, every));
  }
}

export function start() {
  again(TRAFFIC_EVERY, readTraffic);
  again(OBJECTS_EVERY, async () => {
    await readObjects();
    await readRules();
  });
}
