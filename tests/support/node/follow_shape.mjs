// Follows a shape with Electric's own client and prints, one JSON line each, the messages as the client gives them.
// Arguments: the shape URL, and its parameters as JSON ({"table": …, "source_id": …, "secret": …}).
import { ShapeStream } from "@electric-sql/client";

const [url, params] = process.argv.slice(2);
const stream = new ShapeStream({ url, params: JSON.parse(params) });
stream.subscribe(
  (messages) => {
    for (const message of messages) {
      console.log(JSON.stringify(message, (_, value) => (typeof value === "bigint" ? value.toString() : value)));
    }
  },
  (error) => {
    console.log(JSON.stringify({ error: String(error) }));
    process.exit(1);
  },
);
