// Sends the calls with @jitsu/js in Node and ends when all are delivered.
const { url, key, calls, modules } = JSON.parse(process.argv[2])
const require_ = require("module").createRequire(modules + "/")
const { jitsuAnalytics, emptyRuntime } = require_("@jitsu/js")

async function main() {
  const runtime = emptyRuntime({})
  const jitsu = jitsuAnalytics({ host: url, writeKey: key, runtime, s2s: true, errorPolicy: "rethrow" })
  for (const call of calls) {
    const context = { userId: call.userId, anonymousId: call.anonymousId }
    if (call.type === "identify") await jitsu.identify(call.userId, call.traits)
    if (call.type === "track") await jitsu.track(call.event, call.properties, context)
    if (call.type === "page") await jitsu.page({ name: call.name, ...call.properties })
    if (call.type === "group") await jitsu.group(call.groupId, call.traits)
  }
}
main().catch((error) => { console.error(error); process.exitCode = 1 })
