// Tails a durable stream over Server-Sent Events: a `data` event holds a JSON array of messages, the `control` event
// after it says where the stream goes on. Servers end such a connection now and then; the next one begins at that
// offset, so nothing is lost and nothing comes twice.

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

export class Stream {
  /**
   * @param {string} url where the auth proxy answers
   * @param {{messages: Function, reset: Function, state: Function}} listener
   *   `messages(list, position)`; `reset()` when the stream begins again; `state(word, request)`.
   */
  constructor(url, listener) {
    this.url = url;
    this.listener = listener;
    this.offset = "-1";
    this.cursor = null;
    this.failures = 0;
  }

  /** Tails until `signal` is aborted. */
  follow(signal) {
    if (signal.aborted) return;
    const parameters = new URLSearchParams({ offset: this.offset, live: "sse" });
    if (this.cursor) parameters.set("cursor", this.cursor);
    const source = new EventSource(`${this.url}?${parameters}`);
    const stop = () => source.close();
    signal.addEventListener("abort", stop, { once: true });
    let pending = [];
    let heard = false;

    source.addEventListener("data", (event) => { pending.push(...JSON.parse(event.data)); });
    source.addEventListener("control", (event) => {
      const control = JSON.parse(event.data);
      this.offset = control.streamNextOffset;
      this.cursor = control.streamCursor ?? this.cursor;
      this.failures = 0;
      heard = true;
      this.listener.state("live", parameters);
      this.listener.messages(pending, { offset: this.offset });
      pending = [];
    });
    // EventSource would come again by itself, but at the old offset.
    source.addEventListener("error", () => {
      source.close();
      signal.removeEventListener("abort", stop);
      if (signal.aborted) return;
      const pause = heard ? 50 : Math.min(FIRST_PAUSE * 2 ** this.failures, LONGEST_PAUSE);
      if (!heard) {
        this.failures += 1;
        this.listener.state("waiting", parameters);
      }
      setTimeout(async () => {
        if (this.failures > 1) await this.look(signal);
        this.follow(signal);
      }, pause);
    });
  }

  /** EventSource does not tell why it failed: an ordinary request does. A stream made anew is read from its start. */
  async look(signal) {
    const answer = await fetch(`${this.url}?${new URLSearchParams({ offset: this.offset })}`, { signal }).catch(() => null);
    if (this.offset !== "-1" && [400, 404, 410].includes(answer?.status)) {
      this.offset = "-1";
      this.cursor = null;
      this.listener.reset();
    }
  }
}
