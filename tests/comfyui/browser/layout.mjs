/**
 * Columns from left to right along the links, no overlap; runs inside the page, so it uses nothing from this module.
 * A node stands one column before its first reader, so that short inputs stay near what they feed.
 */
export function arrange() {
  const LEFT = 40, TOP = 80, GAP_X = 70, GAP_Y = 70, LANE = 100, MIN_WIDTH = 225, PICTURES = [420, 500], TEXT = [360, 270], LETTER = 9, TITLE_PADDING = 70;
  const { graph, canvas } = window.app;
  const nodes = graph.nodes;
  const links = nodes.flatMap((node) => (node.inputs ?? []).map((input) => graph.getLink(input.link))).filter(Boolean);
  const column = new Map(nodes.map((node) => [node.id, 0]));

  function chooseColumns() {
    for (let round = 0; round < nodes.length; round++)
      for (const { origin_id, target_id } of links)
        column.set(target_id, Math.max(column.get(target_id), column.get(origin_id) + 1));
    for (let round = 0; round < nodes.length; round++)
      for (const node of nodes) {
        const readers = links.filter((link) => link.origin_id === node.id).map((link) => column.get(link.target_id));
        if (readers.length) column.set(node.id, Math.max(column.get(node.id), Math.min(...readers) - 1));
      }
  }

  /** Mean height of what feeds a node, so that links cross little; what nothing feeds goes to the bottom. */
  function height(node) {
    const sources = links.filter((link) => link.target_id === node.id).map((link) => graph.getNodeById(link.origin_id).pos[1]);
    return sources.length ? sources.reduce((a, b) => a + b) / sources.length : 1e6;
  }

  /** Links that pass a column on their way get a free lane above it. */
  function top(index) {
    const passes = links.some((link) => column.get(link.origin_id) < index && index < column.get(link.target_id));
    return TOP + (passes ? LANE : 0);
  }

  function fit(node) {
    const [width, tall] = node.computeSize();
    const title = LETTER * node.title.length + TITLE_PADDING;
    // room for what they show
    const [wide, high] = /^(Save|Preview)Image$/.test(node.type) ? PICTURES
      : /^Likeness(ConceptInfo|SaveConcept|MeasureOverfitting)$/.test(node.type) ? TEXT : [MIN_WIDTH, 0];
    node.setSize([Math.max(width, node.size[0], title, wide), Math.max(tall, node.size[1], high)]);
  }

  chooseColumns();
  let x = LEFT;
  for (let index = 0; index <= Math.max(...column.values()); index++) {
    const group = nodes.filter((node) => column.get(node.id) === index);
    group.sort((a, b) => height(a) - height(b) || Number(a.id) - Number(b.id));
    let y = top(index);
    group.forEach(fit);
    const width = Math.max(...group.map((node) => node.size[0]));
    for (const node of group) {
      node.pos = [x + width - node.size[0], y]; // to the right: links leave without passing behind a wider neighbour
      y += node.size[1] + GAP_Y;
    }
    x += width + GAP_X;
  }
  canvas.setDirty(true, true);
}
