// What an app puts in front of its streams service: shows the service's root as /v1/stream and adds its secret to
// requests that bring no Authorization of their own. It changes no other header and no body.
// Arguments: port, edge's host, edge's port, service id, secret.
import http from "node:http"

const [port, host, edgePort, serviceId, secret] = process.argv.slice(2)

const server = http.createServer((request, response) => {
  const headers = { ...request.headers, authorization: request.headers.authorization ?? `Bearer ${secret}` }
  const path = request.url.replace(/^\/v1\/stream\//, `/v1/stream/${serviceId}/`)
  const onward = http.request({ host, port: edgePort, method: request.method, path, headers, agent: false }, (answer) => {
    response.writeHead(answer.statusCode, answer.rawHeaders)
    response.flushHeaders()
    answer.pipe(response)
    answer.on(`error`, () => response.destroy())
  })
  onward.on(`error`, (error) => {
    if (!response.closed) console.error(`proxy: ${request.method} ${path}: ${error}`)
    response.destroy()
  })
  response.on(`close`, () => onward.destroy())
  request.pipe(onward)
})
// Longer than any pause of the suite: a connection that is closed while a request comes in on it fails that request.
server.keepAliveTimeout = 120_000
server.listen(Number(port), `127.0.0.1`, () => console.log(`ready`))
