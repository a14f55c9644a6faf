// Parts that several views share: links, states, tables.

import { html, nothing } from './libraries/lit.js';
import { rateOf } from './model.js';
import { href, state, update } from './state.js';
import { SYMBOLS, health, keyOf, words } from './words.js';

/// Rows of a table that are drawn at first.
const ROWS = 200;

export const link = (kind, key, text = key) => html`<a href=${href({ open: `${kind}:${key}` })}>${text}</a>`;
export const nodeLink = (end) => link('node', keyOf(end));
export const objectKey = (object) => `${object.kind}/${object.namespace ? `${object.namespace}/` : ''}${object.name}`;

/// A state with its symbol, in its color.
export const badge = (kind, text) => html`<span class="badge ${kind}">${SYMBOLS[kind]} ${text}</span>`;
export const success = (share) => badge(share === null ? 'idle' : health(share), words.percent(share));

/// A text that names objects, with a link for each: `AuthPolicy shop/reviews`.
export function linked(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(/\b([A-Z][A-Za-z]+) ([a-z0-9.-]+\/[a-z0-9.-]+|default\b)/g)) {
    const key = `${match[1]}/${match[2]}`;
    if (!state.objects.objects.some((object) => objectKey(object) === key)) continue;
    found.push(text.slice(end, match.index), link('object', key, match[0]));
    end = match.index + match[0].length;
  }
  return [...found, text.slice(end)];
}

export const facts = (pairs) => html`<dl>${pairs.map(([name, value]) => html`<dt>${name}</dt><dd>${value ?? '-'}</dd>`)}</dl>`;

function head(id, { title, number, value }, at) {
  const { column, down } = state.sort[id] ?? {};
  const order = column === at ? (down ? 'descending' : 'ascending') : nothing;
  const turn = () => update({ sort: { ...state.sort, [id]: { column: at, down: column === at ? !down : Boolean(number) } } });
  const mark = order === nothing ? '' : down ? ' ↓' : ' ↑';
  const name = value ? html`<button @click=${turn}>${title}${mark}</button>` : title;
  return html`<th scope="col" class=${number ? 'number' : nothing} aria-sort=${order}>${name}</th>`;
}

function ordered(id, columns, rows) {
  const { column, down } = state.sort[id] ?? {};
  const value = columns[column]?.value;
  if (!value) return rows;
  const compare = (one, other) => (typeof one === 'number' ? one - other : String(one).localeCompare(String(other)));
  const all = [...rows].sort((one, other) => compare(value(one) ?? -1, value(other) ?? -1));
  return down ? all.reverse() : all;
}

/// A table that is sorted by its heads. Of very many rows the first are drawn.
export function table(id, caption, columns, rows) {
  const all = ordered(id, columns, rows);
  const shown = state.all.has(id) ? all : all.slice(0, ROWS);
  const more = () => update({ all: new Set([...state.all, id]) });
  return html`<div class="table"><table>
    <caption>${caption}</caption>
    <thead><tr>${columns.map((column, at) => head(id, column, at))}</tr></thead>
    <tbody>${shown.map((row) => html`<tr>${columns.map(({ cell, number }) => html`<td class=${number ? 'number' : nothing}>${cell(row) ?? '-'}</td>`)}</tr>`)}</tbody>
  </table>${shown.length < all.length ? html`<p><button @click=${more}>Show all ${all.length} rows</button></p>` : nothing}</div>`;
}

/// A share as a bar, with the number beside it.
export const bar = (percent, kind = '') => html`<span class="bar ${kind}"><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
  <rect class="all" width="100" height="8"></rect><rect class="part" width=${Math.max(0, Math.min(100, percent ?? 0))} height="8"></rect></svg>${words.percent(percent)}</span>`;

/// The share of a service's requests that each backend answered.
export function measured(service, backend) {
  const rows = state.traffic.edges.filter((row) => keyOf(row.destination) === service && !row.answeredBySidecar);
  const all = rows.reduce((all, row) => all + rateOf(row), 0);
  const own = rows.filter((row) => keyOf(row.backend ?? row.destination) === backend);
  return all > 0 ? (100 * own.reduce((all, row) => all + rateOf(row), 0)) / all : null;
}

/// `service shop/reviews-v1:9080` is the service `shop/reviews-v1`.
export const serviceOf = (backend) => backend.match(/([a-z0-9.-]+\/[a-z0-9.-]+)(?::\d+)?/)?.[1] ?? backend;
