// Runs the suite http-cache-tests against a base URL and compares its score with a floor:
// node cache-tests.mjs FOLDER BASE REQUIRED OPTIMAL [ID]
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder, base, required, optimal, only] = process.argv.slice(2)
const suite = `${folder}/node_modules/http-cache-tests`
const load = file => import(pathToFileURL(`${suite}/${file}`))
const fetch = createRequire(`${suite}/cli.mjs`)('node-fetch')
const { default: suites } = await load('tests/index.mjs')
const { runTests, getResults } = await load('client/runner.mjs')

const chosen = only
  ? suites.map(s => ({ ...s, tests: s.tests.filter(t => t.id === only).map(t => ({ ...t, dump: true })) }))
  : suites
await runTests(chosen, fetch, false, base)
const results = getResults()
const tests = new Map(chosen.flatMap(s => s.tests).filter(t => !t.browser_only).map(t => [t.id, t]))

// A test passes if those that it depends on pass, too.
const passes = id => {
  if (results[id] !== true) return false
  const needs = tests.get(id).depends_on ?? []
  return needs.every(need => !tests.has(need) || passes(need))
}

let below = false
for (const [kind, floor] of [['required', required], ['optimal', optimal], ['check', 0]]) {
  const all = [...tests.values()].filter(t => (t.kind ?? 'required') === kind)
  const passed = all.filter(t => passes(t.id))
  console.log(`${kind}: ${passed.length} of ${all.length} (floor ${floor})`)
  if (kind !== 'check' || only) {
    for (const t of all.filter(t => !passes(t.id))) {
      console.log(`  ${t.id}: ${results[t.id] === true ? 'depends on one that fails' : results[t.id]?.join(': ')}`)
    }
  }
  below ||= passed.length < Number(floor)
}
process.exit(below && !only ? 1 : 0)
