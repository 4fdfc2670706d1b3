// A small app on TanStack DB: a collection synced from a shape, optimistic writes that a backend confirms by txid.
// Arguments: the shape URL, the shape's parameters as JSON, the sync mode. The backend is whoever started this: it reads
// JSON lines from our output ({"write": …, "n": …}) and answers on our input ({"n": …, "txid": …}); it also sends
// commands: {"do": "insert" | "update" | "delete", "row": …}, {"do": "query", "max": …}.
import { createInterface } from "node:readline";
import { createCollection, createLiveQueryCollection, lte } from "@tanstack/db";
import { electricCollectionOptions } from "@tanstack/electric-db-collection";

const [url, params, syncMode] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message));
const waiting = new Map();
let count = 0;

function write(operation, row) {
  const n = ++count;
  say({ write: operation, row, n });
  return new Promise((resolve, reject) => waiting.set(n, { resolve, reject }));
}

const persist = (operation) => async ({ transaction }) => {
  const { original, modified } = transaction.mutations[0];
  const { txid } = await write(operation, operation === "delete" ? original : modified);
  return { txid, timeout: 60_000 };
};

const todos = createCollection(
  electricCollectionOptions({
    id: "todos",
    syncMode,
    getKey: (row) => row.id,
    shapeOptions: {
      url,
      params: JSON.parse(params),
      onError: (error) => {
        say({ error: String(error) });
        return {};
      },
    },
    onInsert: persist("insert"),
    onUpdate: persist("update"),
    onDelete: persist("delete"),
  }),
);

const rowsOf = (collection) => [...collection.toArray].map(({ id, title }) => ({ id, title })).sort((a, b) => a.id - b.id);

function follow(name, collection) {
  const tell = () => say({ rows: rowsOf(collection), of: name, status: collection.status });
  collection.subscribeChanges(tell, { includeInitialState: syncMode === "eager" });
  collection.stateWhenReady().then(tell);
}

if (syncMode === "eager") follow("todos", todos);

function act(command) {
  if (command.do === "query") {
    const live = createLiveQueryCollection({
      startSync: true,
      query: (q) => q.from({ todo: todos }).where(({ todo }) => lte(todo.id, command.max)),
    });
    follow(`query ${command.max}`, live);
    return;
  }
  const { id } = command.row;
  const transaction =
    command.do === "insert"
      ? todos.insert(command.row)
      : command.do === "update"
        ? todos.update(id, (draft) => Object.assign(draft, command.row))
        : todos.delete(id);
  say({ optimistic: command.do, rows: rowsOf(todos) });
  transaction.isPersisted.promise.then(
    () => say({ confirmed: command.do, rows: rowsOf(todos) }),
    (error) => say({ refused: command.do, error: String(error), rows: rowsOf(todos) }),
  );
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const message = JSON.parse(line);
  if (message.do) act(message);
  else if (message.error) waiting.get(message.n).reject(new Error(message.error));
  else waiting.get(message.n).resolve(message);
});
say({ started: true });
