// Names of blobs, and how a large frame is announced.

import { createHash } from 'node:crypto'
import { bigEndian, decode, encode } from './cbor.mjs'

export const CHUNK = 2 ** 20

export const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest()

/** The size of a blob and the SHA-256 of each of its chunks; `root` is its name. */
export class BlobRef {
  constructor (size, chunks) {
    if (size < 1 || chunks.length !== Math.ceil(size / CHUNK)) throw new Error('size and chunks do not fit')
    this.size = size
    this.chunks = chunks
    this.root = sha256('qres/blob/v1\0', bigEndian(size, 8), ...chunks)
  }

  static of (data) {
    const chunks = []
    for (let at = 0; at < data.length; at += CHUNK) chunks.push(sha256(data.subarray(at, at + CHUNK)))
    return new BlobRef(data.length, chunks)
  }

  length (index) {
    return Math.min(CHUNK, this.size - index * CHUNK)
  }

  /** The frame that announces it to everybody. */
  announce () {
    return Buffer.concat([Uint8Array.of(0), encode([this.size, Buffer.concat(this.chunks)])])
  }

  static announced (frame) {
    if (frame[0] > 1) throw new Error('no announcement')
    const [size, joined] = decode(frame.subarray(1))
    const chunks = []
    for (let at = 0; at < joined.length; at += 32) chunks.push(joined.subarray(at, at + 32))
    return new BlobRef(size, chunks)
  }
}
