// Sends the calls with @segment/analytics-node and ends when all are delivered.
const { url, key, calls, modules } = JSON.parse(process.argv[2])
const require_ = require("module").createRequire(modules + "/")
const { Analytics } = require_("@segment/analytics-node")

const analytics = new Analytics({ writeKey: key, host: url, flushInterval: 100 })
analytics.on("error", (error) => console.error(error))
for (const { type, ...message } of calls) analytics[type](message)
analytics.closeAndFlush({ timeout: 30000 })
