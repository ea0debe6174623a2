// A verifier of norm/v2. It is written from docs/reference/norm-v2.md alone, whose sections the
// headings name, and shares no code with the prover and the verifier in Python. Nothing here takes
// constant time: a verifier has no secrets.

import { pippenger } from '@noble/curves/abstract/curve.js'
import { ristretto255, ristretto255_hasher as hasher } from '@noble/curves/ed25519.js'
import { blake3 } from '@noble/hashes/blake3.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { shake256 } from '@noble/hashes/sha3.js'
import { concatBytes, equalBytes } from '@noble/curves/utils.js'

const { Point } = ristretto255
const K = 128
const SHIFT = 2n ** 15n
const SIZE = 32
const PROTOCOL = 'qres-zk/norm/v2/ristretto255/shake256/blake3'
const HEADER = Uint8Array.of(...ascii('QZKP'), 2, 1, 0, 0)
const TAU = new Map([[256, 1366n], [512, 1251n], [1024, 1174n]]) // in thousandths

/** The checks, in the order of the test vectors' key `fails`. */
export const CHECKS = ['encoding', 'context', '1', '2', '3', '4', '5']

/** The statement or the context is not one of norm/v2: a mistake of who configured the verifier. */
export class StatementError extends Error { name = 'StatementError' }

/** A bundle is refused; `check` is the one of CHECKS that refused it. */
export class BundleRefused extends Error {
  name = 'BundleRefused'

  constructor (check, why) {
    super(`${check}: ${why}`)
    this.check = check
  }
}

// Notation

export const ORDER = 2n ** 252n + 27742317777372353535851937790883648493n

const mod = x => (x % ORDER + ORDER) % ORDER
const sum = terms => terms.reduce((a, b) => a + b, 0n)
const range = n => Array.from({ length: n }, (_, i) => i)
const bit = (bytes, t) => bytes[t >> 3] >> (t & 7) & 1

function ascii (text) { return new TextEncoder().encode(text) }

/** LE_n: `x` in `n` bytes, little-endian; two's complement if it is negative. */
export function le (n, x) {
  const bytes = new Uint8Array(n)
  for (let i = 0, rest = BigInt.asUintN(8 * n, BigInt(x)); i < n; i++, rest >>= 8n) bytes[i] = Number(rest & 255n)
  return bytes
}

export function fromLe (bytes) {
  let hex = '0x0'
  for (let i = bytes.length - 1; i >= 0; i--) hex += bytes[i].toString(16).padStart(2, '0')
  return BigInt(hex)
}

function isqrt (x) {
  if (x < 2n) return x
  let root = 1n << BigInt(x.toString(2).length + 1 >> 1) // not below the root: Newton's steps only fall
  for (;;) {
    const next = root + x / root >> 1n
    if (next >= root) return root
    root = next
  }
}

// Statement

function insist (holds, what) {
  if (!holds) throw new StatementError(what)
}

const within = (x, low, high) => x >= low && x <= high

/** The numbers that follow from a statement. The keys of `statement` are those of the test vectors. */
export function derive (statement) {
  const { dimension: d, k, scale } = statement
  insist(Number.isSafeInteger(d) && within(d, 1, 2 ** 48 - 1), 'dimension')
  insist(TAU.has(k), 'k is 256, 512 or 1024')
  insist(Number.isInteger(scale) && within(scale, -128, 127), 'scale')
  insist(Number.isInteger(statement.bound) && within(statement.bound, 1, 2 ** 31 - 1), 'bound')
  const vector = (numbers, low, high, what) => {
    if (numbers === null) return null
    insist(numbers.length === d && numbers.every(x => Number.isInteger(x) && within(x, low, high)), what)
    return numbers.map(BigInt)
  }
  const center = vector(statement.center, -(2 ** 31), 2 ** 31 - 1, 'center')
  const direction = vector(statement.direction, -32767, 32767, 'direction')
  const t = BigInt(statement.threshold)

  let b = 1
  while (2 * (2 * b) ** 2 <= d) b *= 2
  const m = Math.ceil(d / b)
  const B = BigInt(statement.bound)
  const P = TAU.get(k) * BigInt(k) * B * B / 1000n
  let L = BigInt(k + 1) * (isqrt(BigInt(d)) + 1n) * B + 4n * (isqrt(P) + 1n)
  let offset = t
  if (direction !== null && center !== null) offset -= sum(direction.map((x, j) => x * center[j]))
  insist(within(offset, 1n - 2n ** 240n, 2n ** 240n - 1n), 'threshold, less the product of direction and center')
  if (direction !== null) {
    const reach = (isqrt(sum(direction.map(x => x * x))) + 1n) * B
    const above = reach - offset > 0n ? reach - offset : 0n
    L += reach + 4n * (isqrt(above) + 1n)
  }
  const M = L.toString(2).length + 71
  insist(M <= 118, 'the masked sums are too long')
  const folds = Math.log2(b)
  const n = k + (direction === null ? 5 : 10)
  const length = 40 + SIZE * (b + 1 + 2 * folds + 5) + 16 * K + SIZE * (5 + m + n + K)
  return { d, b, m, k, n, folds, center, direction, t, offset, scale, B, P, M, gammaBits: 127 - Math.log2(k), length }
}

// Group

const labels = new Map()

/** Points `0 .. count - 1` of a label; they are kept, since all statements share them. */
export function generators (label, count) {
  if (!labels.has(label)) labels.set(label, [])
  const points = labels.get(label)
  const name = concatBytes(ascii('QRES/zk/v1/ristretto255/'), le(1, label.length), ascii(label))
  for (let i = points.length; i < count; i++) {
    points.push(hasher.deriveToCurve(shake256(concatBytes(name, le(8, i)), { dkLen: 64 })))
  }
  return points.slice(0, count)
}

export const H = Point.BASE
export const G0 = generators('value', 1)[0]

/** `sum_i numbers[i] points[i]`, where numbers are any integers. */
export const combine = (numbers, points) => pippenger(Point, points, numbers.map(mod))

/** A commitment to a row of numbers. */
export const commit = (numbers, blind) => combine([...numbers, blind], [...generators('vector', numbers.length), H])

// Transcript

export class Transcript {
  #bytes = shake256.create()
  challenges = [] // what was asked and answered, for comparison with the test vectors

  /** `omits`: a label that is not absorbed, which is a mistake. */
  constructor (omits) { this.omits = omits }

  absorb (label, data) {
    if (label === this.omits) return
    this.#bytes.update(concatBytes(le(4, label.length), le(4, data.length), ascii(label), data))
  }

  challenge (label, size) {
    this.absorb('challenge', concatBytes(ascii(label), le(4, size)))
    const answer = this.#bytes.clone().xof(size)
    this.challenges.push({ label, size, answer })
    return answer
  }

  scalar (label) { return mod(fromLe(this.challenge(label, 64))) }

  integers (label, count, bits) {
    const bytes = this.challenge(label, 16 * count)
    return range(count).map(i => fromLe(bytes.subarray(16 * i, 16 * (i + 1))) >> BigInt(128 - bits))
  }
}

// Parameters and reference

export function parameters ({ d, b, m, k, gammaBits, M, scale, B, P }) {
  return concatBytes(le(8, d), le(4, b), le(4, m), le(2, k), le(2, K), le(1, gammaBits), le(1, M), le(1, scale),
    le(8, B), le(32, P), le(32, ORDER))
}

export function reference ({ d, center, direction, t }) {
  const digest = (label, numbers) => numbers === null
    ? new Uint8Array(32)
    : sha256(concatBytes(ascii(`qres-zk/${label}/v1\0`), le(8, d), ...numbers.map(x => le(4, x))))
  const flags = (center === null ? 0 : 1) + (direction === null ? 0 : 2)
  return concatBytes(le(1, flags), digest('center', center), digest('direction', direction), le(32, t))
}

// Bundle

/** The parts of a bundle. Raises BundleRefused for anything that is no bundle of this layout. */
function decode ({ b, m, n, folds, M, length }, bytes) {
  const refuse = why => { throw new BundleRefused('encoding', why) }
  if (!(bytes instanceof Uint8Array) || bytes.length !== length) refuse(`the length is not ${length}`)
  if (!equalBytes(bytes.subarray(0, 8), HEADER)) refuse('the first 8 bytes are not those of norm/v2')
  let at = 8
  const take = size => bytes.subarray(at, at += size)
  const point = () => {
    const raw = take(SIZE)
    try {
      return { raw, point: Point.fromBytes(raw) }
    } catch {
      return refuse(`no point at ${at - SIZE}`)
    }
  }
  const number = (size, limit) => {
    const raw = take(size)
    if (fromLe(raw) >= limit) refuse(`a number is too large at ${at - size}`)
    return { raw, number: fromLe(raw) }
  }
  const scalar = () => number(SIZE, ORDER).number
  return {
    context: take(SIZE),
    V: range(b).map(point),
    C: point(),
    T: range(folds).map(() => [point(), point()]),
    D: range(5).map(point), // D_u, D_v, E, W_0, W_1
    w: range(K).map(() => number(16, 1n << BigInt(M))),
    t3: number(SIZE, ORDER),
    z: range(4).map(scalar),
    zu: range(m).map(scalar),
    zv: range(n + K).map(scalar)
  }
}

// Transcript: items 1 to 22

const raws = items => concatBytes(...items.map(item => item.raw))

function absorbContext (transcript, shape, { swarm, node, round, model, roster }, protocol) {
  insist([node, model, roster].every(x => x instanceof Uint8Array && x.length === 32), 'an identity or a digest')
  insist(within(BigInt(round), 0n, 2n ** 64n - 1n), 'round')
  transcript.absorb('protocol', ascii(protocol))
  transcript.absorb('parameters', parameters(shape))
  transcript.absorb('reference', reference(shape))
  transcript.absorb('swarm', new TextEncoder().encode(swarm))
  transcript.absorb('node', node)
  transcript.absorb('round', le(8, round))
  transcript.absorb('model', model)
  transcript.absorb('roster', roster)
  return transcript.challenge('context', 32)
}

function challenges (transcript, { k, n, gammaBits, direction }, proof) {
  transcript.absorb('rows', raws(proof.V))
  const seed = transcript.challenge('projection', 32)
  transcript.absorb('values', proof.C.raw)
  const smallness = transcript.challenge('smallness', K * Math.ceil(n / 8))
  transcript.absorb('masked', raws(proof.w))
  const gamma = transcript.integers('combination', k + 1, gammaBits)
  const gammaG = direction === null ? 0n : transcript.integers('direction', 1, 110)[0]
  const delta = direction === null ? 0n : transcript.scalar('square')
  const eta = transcript.integers('link', K, 128)
  const x = proof.T.map(([low, high]) => {
    transcript.absorb('low', low.raw)
    transcript.absorb('high', high.raw)
    return transcript.scalar('fold')
  })
  for (const [i, what] of ['rows', 'values', 'claim', 'square', 'cross'].entries()) {
    transcript.absorb(`mask ${what}`, proof.D[i].raw)
  }
  transcript.absorb('mask link', proof.t3.raw)
  const c = transcript.scalar('response')
  return { seed, smallness, gamma, gammaG, delta, eta, x, c }
}

// Projections, and Verification: weights

/** Row `c` of the weights, as integers. `padding` is 2^15 but for a verifier with norm/v1's mistake. */
function weights (c, { d, m, k, direction }, { seed, gamma, gammaG }, padding) {
  const bits = blake3(concatBytes(seed, le(4, c)), { dkLen: m * k / 8 })
  return range(m).map(j => {
    const column = bits.subarray(j * k / 8, (j + 1) * k / 8)
    let weight = gamma[k]
    for (let t = 0; t < k; t++) if (bit(column, t)) weight += gamma[t]
    if (direction === null) return weight
    const place = c * m + j
    return weight + gammaG * (place < d ? direction[place] + SHIFT : padding)
  })
}

// Verification: folding

/** What the challenges `x` of the folds make of the weights and of the commitments' coefficients. */
function fold ({ b, m, folds }, x, rows) {
  const product = numbers => numbers.reduce((a, e) => mod(a * e), 1n)
  const chosen = (c, value) => product(x.filter((_, i) => (c >> folds - 1 - i & 1) === value)) // x[i]: fold i + 1
  const eps = range(b).map(c => chosen(c, 1))
  const alpha = range(b).map(c => chosen(c, 0))
  const a = range(m).map(j => mod(sum(range(b).map(c => alpha[c] * rows[c][j]))))
  const after = i => product(x.slice(i + 1))
  return { a, eps, X: product(x), cross: x.flatMap((e, i) => [after(i), mod(after(i) * e * e)]) }
}

// Verification

/**
 * The checks that a bundle fails, each made by itself, the cheap ones first. Who asks for no more
 * than the first does no more work than that.
 *
 * `mistakes` are for tests: `omits` (a label that is not absorbed), `protocol` (another name) and
 * `padding` (another weight of padding). `seen` is called with the numbers on the way.
 */
export function * failures (statement, context, bytes, mistakes = {}, seen = () => {}) {
  const shape = derive(statement)
  const { b, m, n, k, center, P, offset } = shape
  const direction = shape.direction !== null
  let proof
  try {
    proof = decode(shape, bytes)
  } catch (error) {
    if (!(error instanceof BundleRefused)) throw error
    yield error
    return
  }
  const failed = (check, why) => new BundleRefused(check, why)
  const transcript = new Transcript(mistakes.omits)
  const named = absorbContext(transcript, shape, context, mistakes.protocol ?? PROTOCOL)
  if (!equalBytes(named, proof.context)) yield failed('context', 'made for another statement or context')

  const { seed, smallness, gamma, gammaG, delta, eta, x, c } = challenges(transcript, shape, proof)
  const rows = range(b).map(row => weights(row, shape, { seed, gamma, gammaG }, mistakes.padding ?? SHIFT))
  const { a, eps, X, cross } = fold(shape, x, rows)
  seen({ shape, challenges: transcript.challenges, rows, a, X, delta, c })

  // Forms: the responses by their names.
  const { zv, zu, z, w, t3 } = proof
  const q = zv.slice(0, k)
  const s = zv[k]
  const e = zv.slice(k + 1, k + 5)
  const [h, ...f] = direction ? zv.slice(k + 5, k + 10) : [0n]
  const y = zv.slice(n)
  const squares = numbers => sum(numbers.map(number => number * number))
  const claim = sum(q.map((number, t) => gamma[t] * number)) + gamma[k] * s + gammaG * (h + SHIFT * s)
  const Q = squares(q.map(number => 2n * number - s)) + squares(e) + delta * (squares(f) - c * h)
  const width = Math.ceil(n / 8)
  const link = sum(range(K).map(i => {
    const row = smallness.subarray(i * width, (i + 1) * width)
    return eta[i] * (y[i] + sum(zv.filter((_, at) => at < n && bit(row, at))))
  }))

  // Equations. Each sum is of all its terms on one side, and has to be the identity, or zero.
  const [Du, Dv, E, W0, W1] = proof.D.map(item => item.point)
  if (mod(link - t3.number - c * sum(w.map((item, i) => eta[i] * item.number))) !== 0n) {
    yield failed('5', 'the masked sums are not those of the values')
  }
  const square = combine([1n, c, c * c * (P - delta * offset) - Q, -z[3]], [W0, W1, G0, H])
  if (!square.is0()) yield failed('4', 'the squares do not add up')
  const T = proof.T.flat().map(item => item.point)
  const folded = sum(a.map((weight, j) => weight * zu[j]))
  const crossed = combine([1n, ...cross.map(factor => c * factor), X * claim - folded, -z[2]], [E, ...T, G0, H])
  if (!crossed.is0()) yield failed('3', 'the values are not those of the vector')
  // The row `sum_c eps_c Com(g0_c)` is subtracted as numbers.
  const shifted = range(m).map(j => c * sum(range(b).map(row => eps[row] * (center?.[row * m + j] ?? 0n))))
  const opened = combine(
    [1n, ...eps.map(factor => c * factor), ...zu.map((number, j) => -number - shifted[j]), -z[0]],
    [Du, ...proof.V.map(item => item.point), ...generators('vector', m), H]
  )
  if (!opened.is0()) yield failed('1', 'the rows are not opened')
  const values = combine(
    [1n, c, ...zv.map(number => -number), -z[1]], [Dv, proof.C.point, ...generators('vector', n + K), H]
  )
  if (!values.is0()) yield failed('2', 'the values are not opened')
}

/** Returns if the proof holds. Raises BundleRefused, and StatementError where there is none such. */
export function verify (statement, context, bytes) {
  for (const refused of failures(statement, context, bytes)) throw refused
}

// Openings

/** Whether commitments `rows`, 32 bytes each, open to the `d` numbers, with zeros as padding. */
export function opens ({ d, b, m }, rows, numbers, blinds) {
  if (numbers.length !== d) return false
  return rows.every((row, c) => {
    const places = range(m).map(j => c * m + j < d ? numbers[c * m + j] : 0n)
    return commit(places, blinds[c]).equals(Point.fromBytes(row))
  })
}
