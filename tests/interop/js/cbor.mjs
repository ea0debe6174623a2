// The part of deterministic CBOR (RFC 8949, section 4.2.1) that the protocols use: unsigned
// integers, byte strings, texts and arrays, each with the shortest possible head.

const [UNSIGNED, BYTES, TEXT, ARRAY] = [0, 2, 3, 4]

function head (major, number) {
  for (const [code, size] of [[24, 1], [25, 2], [26, 4]]) {
    if (size === 1 && number < 24) return Uint8Array.of(major << 5 | number)
    if (number < 2 ** (8 * size)) return Uint8Array.of(major << 5 | code, ...bigEndian(number, size))
  }
  return Uint8Array.of(major << 5 | 27, ...bigEndian(number, 8))
}

/** A number as bytes, the most significant first. */
export function bigEndian (number, size) {
  const bytes = new Uint8Array(size)
  for (let at = size - 1, rest = BigInt(number); at >= 0; at--, rest >>= 8n) bytes[at] = Number(rest & 255n)
  return bytes
}

export function encode (value) {
  if (typeof value === 'number') return head(UNSIGNED, value)
  if (typeof value === 'string') {
    const text = new TextEncoder().encode(value)
    return Buffer.concat([head(TEXT, text.length), text])
  }
  if (value instanceof Uint8Array) return Buffer.concat([head(BYTES, value.length), value])
  return Buffer.concat([head(ARRAY, value.length), ...value.map(encode)])
}

export function decode (data) {
  let at = 0
  const take = size => {
    if (at + size > data.length) throw new Error('CBOR: truncated')
    return data.subarray(at, at += size)
  }
  const item = depth => {
    if (depth > 16) throw new Error('CBOR: too deep')
    const [first] = take(1)
    let number = first & 31
    if (number > 27) throw new Error('CBOR: reserved or indefinite')
    if (number > 23) number = Number(BigInt('0x' + Buffer.from(take(1 << (number - 24))).toString('hex')))
    switch (first >> 5) {
      case UNSIGNED: return number
      case BYTES: return take(number)
      case TEXT: return new TextDecoder('utf-8', { fatal: true }).decode(take(number))
      case ARRAY: {
        const items = []
        while (items.length < number) items.push(item(depth + 1))
        return items
      }
      default: throw new Error('CBOR: a type that is not used')
    }
  }
  const value = item(0)
  if (at !== data.length || Buffer.compare(encode(value), data) !== 0) throw new Error('CBOR: not canonical')
  return value
}
