// Sends the calls with @rudderstack/rudder-sdk-node and ends when all are delivered.
const { url, key, calls, modules } = JSON.parse(process.argv[2])
const require_ = require("module").createRequire(modules + "/")
const Analytics = require_("@rudderstack/rudder-sdk-node")

const analytics = new Analytics(key, { dataPlaneUrl: url, flushInterval: 100, flushAt: calls.length })
analytics.flushed = true // else the first call is sent by itself
for (const { type, ...message } of calls) analytics[type](message)
analytics.flush().catch((error) => { console.error(error); process.exitCode = 1 })
