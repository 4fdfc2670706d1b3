// The real client: creates, appends (also as an idempotent producer), tails over SSE and long-poll, closes.
// Arguments: base URL of streams, secret. Prints one JSON line with what it saw.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const [base, secret] = process.argv.slice(2)
const headers = { Authorization: `Bearer ${secret}` }
const url = `${base}/client/${Date.now()}`

const handle = await DurableStream.create({ url, headers, contentType: `application/json` })
await handle.append(JSON.stringify({ n: 0 }))

const seen = { sse: [], "long-poll": [] }
const readers = Object.keys(seen).map(async (live) => {
  const response = await stream({ url, headers, offset: `-1`, live })
  for await (const item of response.jsonStream()) seen[live].push(item.n)
})

const producer = new IdempotentProducer(handle, `writer-1`, { autoClaim: true, lingerMs: 1 })
for (let n = 1; n <= 200; n++) {
  producer.append(JSON.stringify({ n }))
  if (n % 50 === 0) await producer.flush()
}
await producer.close(JSON.stringify({ n: 201 }))
await Promise.all(readers)

const caughtUp = await (await stream({ url, headers, offset: `-1`, live: false })).json()
const head = await handle.head()
console.log(JSON.stringify({ seen, all: caughtUp.map((item) => item.n), head }))

let refused
try {
  await DurableStream.create({ url: `${url}/other`, headers: { Authorization: `Bearer wrong` }, contentType: `text/plain` })
} catch (error) {
  refused = { status: error.status, name: error.constructor.name }
}
console.log(JSON.stringify({ refused }))
