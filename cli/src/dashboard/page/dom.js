// Makes elements. Every text goes in by textContent: names come from the mesh, and may be anything.

const SVG = 'http://www.w3.org/2000/svg';

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children) {
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const html = (tag, attributes = {}, ...children) => made(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => made(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

export function table(caption, columns, rows) {
  const head = columns.map(({ title, number }) => html('th', { scope: 'col', class: number && 'number' }, title));
  const body = rows.map((row) => html('tr', {}, ...columns.map(({ cell, number }) => {
    const value = cell(row);
    return html('td', { class: number && 'number' }, value ?? '-');
  })));
  return html('table', {}, html('caption', {}, caption), html('thead', {}, html('tr', {}, ...head)), html('tbody', {}, ...body));
}

export const facts = (pairs) => html('dl', {}, ...pairs.flatMap(([name, value]) => [html('dt', {}, name), html('dd', {}, value ?? '-')]));
