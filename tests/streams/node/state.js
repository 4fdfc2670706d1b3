// StreamDB of @durable-streams/state over one stream: preloads what there is, then follows live changes by SSE.
// Arguments: URL of a JSON stream that holds changes. Prints one JSON line per state seen; ends when user "done" appears.
import { createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"

const [url] = process.argv.slice(2)
const any = { "~standard": { version: 1, vendor: `test`, validate: (value) => ({ value }) } }
const state = createStateSchema({ users: { schema: any, type: `user`, primaryKey: `id` } })
const db = createStreamDB({ streamOptions: { url, contentType: `application/json` }, live: `sse`, state })
const show = () => {
  const users = db.collections.users.toArray.map(({ id, n }) => [id, n]).sort()
  console.log(JSON.stringify(users))
  return users.some(([id]) => id === `done`)
}

await db.preload()
show()
while (!db.collections.users.has(`done`)) await new Promise((resolve) => setTimeout(resolve, 20))
show()
db.close()
process.exit(0)
