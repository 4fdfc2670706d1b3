// Follows a shape over HTTP: first everything there is (offset -1), then what changes, by long polling.
//
// The server names where to go on: `electric-offset` and `electric-handle` of each answer go into the next request,
// `electric-cursor` into the next live one. 409 says that this handle has come to its end: everything is read again,
// with the handle that the answer names, so that no cache on the way answers with the old beginning.

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

export class Shape {
  /**
   * @param {string} url where the auth proxy answers
   * @param {{batch: Function, reset: Function, state: Function}} listener
   *   `batch(changes, position)` once for each answer; a change is {key, operation, value}.
   *   `reset()` when all rows are about to come again. `state(word, request)` with connecting, live, waiting or error.
   */
  constructor(url, listener) {
    this.url = url;
    this.listener = listener;
    this.start(null);
  }

  start(handle) {
    this.offset = "-1";
    this.handle = handle;
    this.cursor = null;
    this.live = false;
  }

  /** Follows until `signal` is aborted. Never throws for what a server or a network does. */
  async follow(signal) {
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.step(signal);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        this.listener.state(error.fatal ? "error" : "waiting", error.message);
        const pause = Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE);
        failures += 1;
        await sleep(Math.max(error.retryAfter ?? 0, pause * (0.75 + Math.random() / 2)), signal);
      }
    }
  }

  parameters() {
    const parameters = new URLSearchParams({ offset: this.offset });
    if (this.handle) parameters.set("handle", this.handle);
    if (this.live) {
      parameters.set("live", "true");
      if (this.cursor) parameters.set("cursor", this.cursor);
    }
    return parameters;
  }

  async step(signal) {
    const parameters = this.parameters();
    if (this.live) this.listener.state("live", parameters);
    const answer = await fetch(`${this.url}?${parameters}`, { signal });
    if (answer.status === 409) {
      const next = answer.headers.get("electric-handle");
      this.start(next && next !== this.handle ? next : `${this.handle ?? "none"}-next`);
      this.listener.reset();
      return;
    }
    if (!answer.ok) throw failure(answer);
    this.handle = answer.headers.get("electric-handle") ?? this.handle;
    this.offset = answer.headers.get("electric-offset") ?? this.offset;
    this.cursor = answer.headers.get("electric-cursor") ?? this.cursor;
    const messages = answer.status === 204 ? [] : await answer.json();
    if (answer.headers.has("electric-up-to-date")) this.live = true;
    const changes = messages
      .filter((message) => message.headers.operation)
      .map((message) => ({ key: message.key, operation: message.headers.operation, value: message.value }));
    this.listener.batch(changes, { offset: this.offset, upToDate: this.live });
  }
}

function failure(answer) {
  const error = new Error(`the server answered ${answer.status}`);
  error.retryAfter = 1000 * Number(answer.headers.get("retry-after") ?? 0);
  error.fatal = answer.status < 500 && answer.status !== 429;
  return error;
}

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
