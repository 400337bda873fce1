// Opens a running ComfyUI in Chromium, loads a workflow, looks for trouble, saves a picture or converts the workflow.
//
//   node screenshot.mjs --server URL [--workflow FILE | --template NAME --pack FOLDER]
//                       [--wrap SPEC.json] [--place BLUEPRINT] [--connect LINKS.json]
//                       [--run] [--png OUT.png] [--to-ui OUT.json] [--to-api OUT.json] [--wait MS]
//
// FILE may be in API or in UI format; --wrap makes one node of it, --place adds a blueprint of the server to it, and
// --connect connects that one. Exit code 1: no nodes, a missing node, or a page error that names the pack.
// Environment: PLAYWRIGHT_CORE, a folder whose node_modules holds playwright-core; CHROMIUM, the browser's path.
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { connect, place, wrap } from "./blueprint.mjs";
import { arrange } from "./layout.mjs";

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", // the pack must not need the internet
];
const SETTINGS = {
  "Comfy.TutorialCompleted": true, // else a dialog covers the canvas
  "Comfy.Workflow.Persist": false, // else the last session's workflow comes back after ours
  "Comfy.Minimap.Visible": false,
  "LiteGraph.Canvas.MinFontSizeForLOD": 0, // else large graphs are drawn without text
  "LiteGraph.Canvas.LowQualityRenderingZoomThreshold": 0, // the same in older versions
};

const { values: options } = parseArgs({
  options: {
    server: { type: "string" }, workflow: { type: "string" }, template: { type: "string" },
    pack: { type: "string", default: "likeness" }, png: { type: "string" }, "to-ui": { type: "string" },
    "to-api": { type: "string" }, run: { type: "boolean", default: false },
    wrap: { type: "string" }, place: { type: "string" }, connect: { type: "string" },
    wait: { type: "string", default: "1500" },
  },
});

function playwright() {
  const folder = resolve(process.env.PLAYWRIGHT_CORE ?? ".");
  return createRequire(join(folder, "noop.js"))("playwright-core");
}

/** Page errors and console errors, in the order of appearance. */
function collectErrors(page) {
  const errors = [];
  page.on("pageerror", (error) => errors.push(`${error.message}\n${error.stack}`));
  page.on("console", (message) => {
    if (message.type() === "error") errors.push(`${message.text()} (${message.location().url})`);
  });
  return errors;
}

async function openFrontEnd(page) {
  await page.request.post(`${options.server}/settings`, { data: SETTINGS });
  const query = options.template ? `/?template=${options.template}&source=${options.pack}` : "/";
  await page.goto(options.server + query);
  await page.waitForFunction(() => window.app?.graph && window.app?.extensionManager, null, { timeout: 60_000 });
  await page.waitForLoadState("networkidle");
  await page.waitForTimeout(2000); // the front end still loads its default workflow, or the template
}

/** Load an API or UI workflow; API graphs get positions, since they carry none. */
async function loadWorkflow(page, workflow) {
  await page.evaluate(async ([data, api]) => {
    if (api) await window.app.loadApiJson(data, "workflow");
    else await window.app.loadGraphData(data);
  }, [workflow, isApi(workflow)]);
  await page.waitForTimeout(500);
  if (isApi(workflow)) await page.evaluate(arrange);
}

const isApi = (workflow) => !Array.isArray(workflow.nodes);

/** Types that this server does not have: of the nodes shown, subgraphs included, and of those that were to be shown. */
function missingNodes(page, wanted) {
  return page.evaluate((types) => {
    const walk = (graph) => graph.nodes.flatMap((node) => (node.subgraph ? walk(node.subgraph) : [node.type]));
    return [...new Set([...walk(window.app.graph), ...types])].filter((type) => !window.LiteGraph.registered_node_types[type]);
  }, wanted);
}

const nodeCount = (page) => page.evaluate(() => window.app.graph.nodes.length);

/** What the Run button does; returns when the queue is empty again. */
async function run(page) {
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const busy = async () => {
    const queue = await (await page.request.get(`${options.server}/queue`)).json();
    return queue.queue_running.length + queue.queue_pending.length > 0;
  };
  while (await busy()) await page.waitForTimeout(300);
}

async function takePicture(page, file) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(Number(options.wait));
  await page.screenshot({ path: file });
}

async function writeJson(page, file, make) {
  writeFileSync(file, JSON.stringify(await page.evaluate(make), null, 2) + "\n");
}

const read = (file) => file && JSON.parse(readFileSync(file, "utf8"));

async function work(page) {
  const errors = collectErrors(page);
  const workflow = read(options.workflow);
  await openFrontEnd(page);
  if (workflow) await loadWorkflow(page, workflow);
  if (options.wrap) await page.evaluate(wrap, read(options.wrap));
  if (options.place) await place(page, options.place);
  if (options.connect) await page.evaluate(connect, read(options.connect));
  if (options.run) await run(page);
  if (options.png) await takePicture(page, options.png);
  if (options["to-ui"]) await writeJson(page, options["to-ui"], () => window.app.graph.serialize());
  if (options["to-api"]) await writeJson(page, options["to-api"], async () => (await window.app.graphToPrompt()).output);
  // the front end leaves out the unknown nodes of an API workflow
  const wanted = workflow && isApi(workflow) ? Object.values(workflow).map((node) => node.class_type) : [];
  const missing = await missingNodes(page, wanted);
  const ours = errors.filter((error) => error.toLowerCase().includes("likeness") || error.includes(options.pack));
  const nodes = await nodeCount(page);
  console.log(JSON.stringify({ nodes, missing, ours, otherErrors: errors.length - ours.length }));
  return nodes === 0 || missing.length || ours.length ? 1 : 0;
}

const { chromium } = playwright();
const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS,
  viewport: { width: 2560, height: 1440 }, // below 1800 pixels the front end hides labels
});
try {
  process.exitCode = await work(browser.pages()[0] ?? (await browser.newPage()));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
