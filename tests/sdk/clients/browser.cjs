// Opens a page of another origin in headless Chromium for each job, which sends the job's calls
// with the library that it names. The pages stay open until standard input ends.
const { jobs, modules, page, chromium } = JSON.parse(process.argv[2])
const playwright = require("module").createRequire(modules + "/")("playwright-core")

async function run(browser, { library, ...options }) {
  const tab = await (await browser.newContext()).newPage()
  tab.on("console", (line) => console.error(library, line.text()))
  tab.on("pageerror", (error) => console.error(library, error))
  await tab.goto(page)
  await tab.evaluate(([name, given]) => globalThis.send(name, given), [library, options])
}

async function main() {
  const browser = await playwright.chromium.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  })
  try {
    await Promise.all(jobs.map((job) => run(browser, job)))
    process.stdin.resume()
    await new Promise((resolve) => process.stdin.on("end", resolve))
  } finally {
    await browser.close()
  }
}
main().catch((error) => { console.error(error); process.exitCode = 1 })
