// The real Yjs provider, driven by JSON lines on standard input; one JSON line answers each.
// Arguments: base URL, document, secret ("" for none).
import * as Y from "yjs"
import { Awareness } from "y-protocols/awareness"
import { YjsProvider } from "@durable-streams/y-durable-streams"
import { createInterface } from "node:readline"
import { createHash } from "node:crypto"

const [baseUrl, docId, secret] = process.argv.slice(2)
const headers = secret ? { Authorization: `Bearer ${secret}` } : {}
const peers = new Map()
console.error = () => {}
console.warn = () => {}

function connect(name, liveMode) {
  const doc = new Y.Doc()
  const awareness = new Awareness(doc)
  const provider = new YjsProvider({ doc, baseUrl, docId, awareness, headers, liveMode, connect: false })
  const peer = { doc, awareness, provider, errors: [] }
  provider.on("error", (error) => peer.errors.push(String(error)))
  peers.set(name, peer)
  const synced = new Promise((resolve) => provider.on("synced", (is) => is && resolve()))
  provider.connect()
  return synced
}

// Inserts and deletions at places that only depend on `seed`, a map key, and a nested list.
function edit({ doc }, { seed, times, size }) {
  const text = doc.getText("text")
  let random = seed
  const next = (below) => (random = (random * 1103515245 + 12345) % 2147483648) % below
  for (let n = 0; n < times; n++) {
    text.insert(next(text.length + 1), String(seed % 10).repeat(size))
    if (n % 3 === 0) text.delete(next(text.length), Math.min(size, 2))
    doc.getMap("map").set(`k${next(5)}`, `${seed}-${n}`)
    if (n % 50 === 0) doc.getArray("list").push([`${seed}-${n}`])
  }
}

function see({ doc, awareness, provider, errors }) {
  const map = Object.entries(doc.getMap("map").toJSON()).sort()
  const content = JSON.stringify([doc.getText("text"), map, doc.getArray("list")])
  return {
    hash: createHash("sha256").update(content).digest("hex"),
    length: doc.getText("text").length,
    list: doc.getArray("list").length,
    present: [...awareness.getStates().values()].map((state) => state.name).filter(Boolean).sort(),
    synced: provider.synced,
    errors,
  }
}

const actions = {
  connect: async ({ name, live }) => (await connect(name, live), {}),
  edit: async (given) => (edit(peers.get(given.name), given), await peers.get(given.name).provider.flush(), {}),
  edit_offline: async (given) => (edit(peers.get(given.name), given), {}),
  flush: async ({ name }) => (await peers.get(name).provider.flush(), {}),
  announce: async ({ name }) => (peers.get(name).awareness.setLocalState({ name }), {}),
  see: async ({ name }) => see(peers.get(name)),
  leave: async ({ name }) => (await peers.get(name).provider.disconnect(), {}),
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  console.log(JSON.stringify(await actions[command.do](command)))
}
process.exit(0)
