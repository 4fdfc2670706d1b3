// The public conformance suite against the server at $STREAMS_URL.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({ baseUrl: process.env.STREAMS_URL, longPollTimeoutMs: 500, subscriptions: true })
