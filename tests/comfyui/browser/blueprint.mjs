/**
 * Wrap all nodes of the page's graph into one, as a user does: convert to a subgraph, then draw links from its inputs
 * and outputs. Runs inside the page, so it uses nothing from this module.
 *
 * spec: {name, sockets: {name: [type, [[node, input]...]]}, widgets: {name: [[node, widget]...]},
 * outputs: {name: [node, slot]}}; its order is the order on the node.
 */
export function wrap(spec) {
  const { graph } = window.app;
  for (const each of graph.nodes) each.updateArea(); // their boxes are from before they were arranged, until drawn
  const { subgraph, node } = graph.convertToSubgraph(new Set(graph.nodes));
  const inner = (id) => subgraph.getNodeById(Number(id));
  const slot = ([id, name]) => inner(id).inputs.find((input) => input.name === name);

  function feed(name, type, targets) {
    const input = subgraph.addInput(name, type);
    for (const target of targets) input.connect(slot(target), inner(target[0]));
  }
  for (const input of [...subgraph.inputs]) subgraph.removeInput(input); // the front end promotes some texts by itself
  for (const [name, [type, targets]] of Object.entries(spec.sockets)) feed(name, type, targets);
  for (const [name, targets] of Object.entries(spec.widgets)) feed(name, slot(targets[0]).type, targets);
  for (const [name, [id, index]] of Object.entries(spec.outputs)) {
    const output = inner(id).outputs[index];
    subgraph.addOutput(name, output.type).connect(output, inner(id));
  }
  subgraph.name = node.title = spec.name;
  node.pos = [0, 0];
  node.setSize([360, node.computeSize()[1]]); // room for the longest names beside their values
}

/** Place a blueprint as the node library does: search for its name, press Enter. */
export async function place(page, name) {
  const before = await page.evaluate(() => window.app.graph.nodes.length);
  await page.evaluate(() => window.app.extensionManager.command.execute("Workspace.SearchBox.Toggle"));
  const search = page.locator("input:focus");
  await search.fill(name.split(" (")[0]); // more than 32 letters find nothing
  await page.waitForTimeout(1000);
  await search.press("Enter");
  await page.waitForTimeout(500);
  // front ends may let the node hang on the mouse until a click
  const hangs = await page.evaluate(() => window.app.graph.nodes.some((node) => node.flags.ghost));
  if (hangs) await page.mouse.click(1200, 400);
  await page.waitForFunction((count) => window.app.graph.nodes.length === count + 1, before, { timeout: 10_000 });
}

/** Connect the last node, {inputs: {name: [node, slot]}, outputs: {name: [node, input]}}, and set its widgets. */
export function connect({ inputs, outputs, widgets }) {
  const { graph } = window.app;
  const placed = graph.nodes.at(-1);
  const at = (slots, name) => slots.findIndex((slot) => slot.name === name);
  for (const [name, [id, slot]] of Object.entries(inputs))
    graph.getNodeById(id).connect(slot, placed, at(placed.inputs, name));
  for (const [name, [id, input]] of Object.entries(outputs)) {
    const reader = graph.getNodeById(id);
    placed.connect(at(placed.outputs, name), reader, at(reader.inputs, input));
  }
  for (const [name, value] of Object.entries(widgets))
    placed.widgets.find((widget) => widget.name === name).value = value;
}
