// Creates a JSON stream with Durable Streams' own client, appends n records, and tails it live until all have come back.
// Arguments: the stream's URL, the number of records, "long-poll" or "sse". The secret comes in STREAM_SECRET.
import { DurableStream } from "@durable-streams/client";

const [url, count, live] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.STREAM_SECRET}` };
const handle = await DurableStream.create({ url, headers, contentType: "application/json" });
const seen = [];
const done = (async () => {
  const response = await handle.stream({ offset: "-1", live });
  for await (const item of response.jsonStream()) {
    seen.push(item.n);
    if (seen.length === Number(count)) break;
  }
  response.cancel?.();
})();
for (let n = 0; n < Number(count); n++) await handle.append(JSON.stringify({ n }));
await done;
console.log(JSON.stringify({ seen }));
process.exit(0);
