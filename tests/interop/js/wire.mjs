// Blocks on a stream: a length in 4 bytes, big-endian, and that many bytes.

import { byteStream } from '@libp2p/utils'
import { bigEndian } from './cbor.mjs'

const BUFFER = 8 * 2 ** 20 // four chunks may be under way

export class Wire {
  constructor (stream) {
    this.stream = stream
    this.bytes = byteStream(stream, { maxBufferSize: BUFFER })
  }

  async exactly (size, signal) {
    return size === 0 ? new Uint8Array() : (await this.bytes.read({ bytes: size, signal })).subarray()
  }

  async block (limit, signal) {
    const size = new DataView(Uint8Array.from(await this.exactly(4, signal)).buffer).getUint32(0)
    if (size > limit) throw new Error(`a block of ${size} bytes, allowed are ${limit}`)
    return await this.exactly(size, signal)
  }

  async write (...parts) {
    await this.bytes.write(Buffer.concat(parts))
  }

  async send (data, before = new Uint8Array()) {
    await this.write(before, bigEndian(data.length, 4), data)
  }
}
