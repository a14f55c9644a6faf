// A worker: places the nodes of a graph in columns, callers to the left of the services that they call, by the library dagre.

import { Graph, layout } from './libraries/dagre.js';

self.onmessage = ({ data: { id, nodes, edges } }) => {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: 'LR', ranksep: 60, nodesep: 28, edgesep: 24, marginx: 20, marginy: 20, ranker: 'longest-path' });
  for (const { key, width, height } of nodes) graph.setNode(key, { width, height });
  for (const { key, from, to, width, height } of edges) graph.setEdge(from, to, { width, height, labelpos: 'c' }, key);
  layout(graph);
  const { width, height } = graph.graph();
  self.postMessage({
    id,
    width,
    height,
    nodes: graph.nodes().map((key) => ({ key, x: graph.node(key).x, y: graph.node(key).y })),
    edges: graph.edges().map((edge) => ({ key: edge.name, points: graph.edge(edge).points, x: graph.edge(edge).x, y: graph.edge(edge).y })),
  });
};
