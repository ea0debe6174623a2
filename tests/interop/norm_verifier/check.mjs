// Holds the verifier against the test vectors of docs/reference/norm-v2.md: `node check.mjs FOLDER`.
// It prints what it saw, a line for each surprise, and exits with 1 if there was one.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { shake256 } from '@noble/hashes/sha3.js'
import { bytesToHex, hexToBytes } from '@noble/hashes/utils.js'
import {
  BundleRefused, CHECKS, G0, H, StatementError, Transcript, commit, derive, failures, fromLe, generators, le, opens,
  parameters, reference, verify
} from './verifier.mjs'

const FLIPS = 50 // for each accepted proof
const NORM_V1 = 'qres-zk/norm/v1/ristretto255/shake256/blake3'

const folder = process.argv[2] ?? join(import.meta.dirname, 'vectors')
const read = name => JSON.parse(readFileSync(join(folder, name), 'utf8'))
const accepted = read('accepted.json')
const refused = read('refused.json')
const started = performance.now()
let surprises = 0

function expect (name, what, got, wanted) {
  const [a, b] = [got, wanted].map(value => JSON.stringify(value))
  if (a === b) return true
  surprises++
  console.log(`SURPRISE: ${name}: ${what}: ${a}, expected ${b}`)
  return false
}

// Test vectors: their format

const fromBase64 = text => new Uint8Array(Buffer.from(text, 'base64'))

function contextOf ({ context }) {
  const [node, model, roster] = [context.node, context.model, context.roster].map(hexToBytes)
  return { ...context, node, model, roster }
}

function bundleOf (item) {
  if (item.bundle !== undefined) return fromBase64(item.bundle)
  const bytes = fromBase64(accepted.cases.find(({ name }) => name === item.of).bundle)
  for (const [at, hex] of item.edits) bytes.set(hexToBytes(hex), at)
  if (item.length === undefined) return bytes
  const cut = new Uint8Array(item.length)
  cut.set(bytes.subarray(0, item.length))
  return cut
}

function mistakesOf (item) {
  if (item.item === 'protocol') return { protocol: NORM_V1 }
  return item.item === undefined ? { padding: 0n } : { omits: item.item }
}

const failing = (item, mistakes, seen) => {
  const found = [...failures(item.statement, contextOf(item), bundleOf(item), mistakes, seen)].map(({ check }) => check)
  return CHECKS.filter(check => found.includes(check))
}

/** The name of the error that refuses a bundle, and its check. */
function refusal (item, bytes) {
  try {
    verify(item.statement, contextOf(item), bytes)
  } catch (error) {
    return error instanceof BundleRefused ? error.check : `${error}`
  }
  return 'accepted'
}

const table = counts => [...counts].map(([what, count]) => `${what}: ${count}`).join(', ')
const counted = (counts, what) => counts.set(what, (counts.get(what) ?? 0) + 1)

// Statement: the limits, which the test vectors do not try

const plain = { dimension: 3, bound: 4096, k: 256, scale: 0, center: null, direction: null, threshold: '0' }

function isStatement (change) {
  try {
    derive({ ...plain, ...change })
  } catch (error) {
    if (!(error instanceof StatementError)) throw error
    return false
  }
  return true
}

const triple = x => [0, x, 0]
const far = 2n ** 240n - 1n
const limits = [ // the name of a number, the least, the greatest, what else the statement has
  ['dimension', 1, 2 ** 48 - 1, { bound: 1 }],
  ['dimension', 1, 2039 ** 2 - 1, { bound: 2 ** 28 }], // M is 118, and 119 with one more
  ['bound', 1, 2 ** 31 - 1, {}],
  ['scale', -128, 127, {}],
  ['center', triple(-(2 ** 31)), triple(2 ** 31 - 1), {}],
  ['direction', triple(-32767), triple(32767), {}],
  ['threshold', `${-far}`, `${far}`, { center: triple(1) }],
  ['threshold', null, `${far}`, { direction: triple(1) }], // far below, M is too long first
  ['threshold', null, `${far + 5n}`, { direction: triple(1), center: triple(5) }]
]
const beyond = (x, step) => {
  if (Array.isArray(x)) return x.map(item => item && item + step)
  return typeof x === 'string' ? `${BigInt(x) + BigInt(step)}` : x + step
}
for (const [key, least, greatest, others] of limits) {
  const holds = value => isStatement({ ...others, [key]: value })
  if (least !== null) expect('statement', `least ${key}`, [beyond(least, -1), least].map(holds), [false, true])
  expect('statement', `greatest ${key}`, [greatest, beyond(greatest, 1)].map(holds), [true, false])
}
for (const change of [{ k: 128 }, { k: 300 }, { center: [0, 0] }, { direction: [0, 0, 0, 0] }, { bound: 1.5 }]) {
  expect('statement', JSON.stringify(change), isStatement(change), false)
}

// Transcript: its example

const transcript = new Transcript()
transcript.absorb('a', new TextEncoder().encode('xy'))
expect('transcript', 'the example', bytesToHex(transcript.challenge('c', 5)), 'f800db48af')

// Generators

const encoded = point => bytesToHex(point.toBytes())
expect('generators', 'H', encoded(H), accepted.generators.H)
expect('generators', 'G0', encoded(G0), accepted.generators.G0)
for (const [j, hex] of Object.entries(accepted.generators.GG)) {
  expect('generators', `GG_${j}`, encoded(generators('vector', +j + 1)[+j]), hex)
}

// Proofs that hold

let held = 0
let padded = 0
for (const item of accepted.cases) {
  const { name } = item
  const checks = failing(item, {}, ({ shape, challenges, rows, a, X, delta, c }) => {
    const { b: rowCount, m: columns, n: values, gammaBits, M, length, P, offset } = shape
    expect(name, 'derived', {
      rows: rowCount, columns, values, gamma_bits: gammaBits, mask_bits: M, budget: `${P}`, offset: `${offset}`,
      bundle_bytes: length, parameters: bytesToHex(parameters(shape)), reference: bytesToHex(reference(shape))
    }, item.derived)
    expect(name, 'challenges', challenges.map(({ label, size, answer }) => {
      return [label, `${size}`, bytesToHex(answer.subarray(0, 32))]
    }), item.challenges)
    const found = { 'A[0,0]': rows[0][0], 'A[b-1,m-1]': rows.at(-1).at(-1), 'folded A[0]': a[0], X, delta, c }
    for (const [key, value] of Object.entries(found)) expect(name, key, `${value}`, item.intermediate[key])
  })
  if (expect(name, 'failed checks', checks, [])) held++

  const shape = derive(item.statement)
  const rows = Array.from({ length: shape.b }, (_, c) => bundleOf(item).slice(40 + 32 * c, 72 + 32 * c))
  const numbers = item.opening.vector.map(BigInt)
  const blinds = item.opening.blinds.map(hex => fromLe(hexToBytes(hex)))
  const inPadding = numbers.length > shape.d
  if (inPadding) padded++
  const cells = [...numbers, ...Array(shape.b * shape.m - numbers.length).fill(0n)]
  const own = blinds.map((blind, c) => encoded(commit(cells.slice(c * shape.m, (c + 1) * shape.m), blind)))
  expect(name, 'commitments', own, rows.map(bytesToHex))
  expect(name, 'the check of an opening', opens(shape, rows, numbers.slice(0, shape.d), blinds), !inPadding)
  expect(name, 'an opening by one more', opens(shape, rows, numbers.with(0, numbers[0] + 1n), blinds), false)
}
console.log(`accepted: ${held} of ${accepted.cases.length} proofs that hold, ${padded} with numbers in the padding`)

// Forgeries

const first = new Map()
const every = new Map(CHECKS.map(check => [check, 0]))
let withMistake = 0
let caught = 0
for (const item of refused.cases) {
  const checks = failing(item)
  if (expect(item.name, 'failed checks', checks, item.fails) && checks.length) caught++
  for (const check of checks) counted(every, check)
  counted(first, checks[0])
  console.log(`  ${checks.join(' ').padEnd(17)} ${item.name}`)
  if (item.accepted_by === undefined) continue
  // The control: without what refuses the forgery, it passes.
  if (expect(item.name, `failed checks of ${item.accepted_by}`, failing(item, mistakesOf(item)), [])) withMistake++
}
console.log(`refused: ${caught} of ${refused.cases.length} forgeries`)
console.log(`  forgeries by the first check they fail: ${table(first)}`)
console.log(`  forgeries that fail a check: ${table(every)}`)
console.log(`  accepted by a verifier with the mistake they are made for: ${withMistake}`)

// Bits of proofs that hold: a field is drawn, then a bit of it, since most bits are of z_v.

const draw = (() => {
  const stream = shake256.create().update(new TextEncoder().encode('flipped bits'))
  return below => Number(fromLe(stream.xof(8)) % BigInt(below))
})()

function fields ({ b, m, n, folds, length }) {
  const sizes = [8, 32, 32 * b, 32, 64 * folds, 160, 16 * 128, 32, 128, 32 * m, 32 * (n + 128)]
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((x, y) => x + y, 0))
  expect('bundle', 'sum of the fields', starts.at(-1) + sizes.at(-1), length)
  return sizes.map((size, i) => [starts[i], size]).filter(([, size]) => size)
}

const flips = new Map()
for (const item of accepted.cases) {
  const places = fields(derive(item.statement))
  for (let i = 0; i < FLIPS; i++) {
    const [start, size] = places[draw(places.length)]
    const at = start + draw(size)
    const bytes = bundleOf(item)
    bytes[at] ^= 1 << draw(8)
    const check = refusal(item, bytes)
    counted(flips, check)
    expect(item.name, `byte ${at} changed in one bit: refused`, CHECKS.includes(check), true)
  }
}
const flipped = [...flips.values()].reduce((x, y) => x + y, 0)
console.log(`refused: ${flipped - (flips.get('accepted') ?? 0)} of ${flipped} proofs with one bit changed`)
console.log(`  by the first check that fails, of encoding, context, 5, 4, 3, 1, 2: ${table(flips)}`)

// Random bytes: short, of the right length, and behind the right header.

const [sample] = accepted.cases
const right = derive(sample.statement).length
const header = bundleOf(sample).slice(0, 8)
const lengths = [1, 8, 40, right - 1, right + 1, 3 * right, right, right, right, right]
const noise = lengths.map((length, i) => {
  const bytes = shake256(le(1, i), { dkLen: length })
  if (i >= 8) bytes.set(header)
  return refusal(sample, bytes)
})
expect('random bytes', 'refused', noise, noise.map(() => 'encoding'))
console.log(`refused: ${noise.filter(check => check === 'encoding').length} of ${noise.length} random byte strings`)

console.log(`${surprises} surprises, ${Math.round((performance.now() - started) / 1000)} s`)
process.exitCode = surprises ? 1 : 0
