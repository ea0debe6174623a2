// A peer: js-libp2p, and on top of it the protocols of docs/reference/libp2p-protocol.md.

import { randomBytes, timingSafeEqual } from 'node:crypto'
import { generateKeyPairFromSeed, publicKeyFromRaw } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { BlobRef, CHUNK, sha256 } from './blob.mjs'
import { bigEndian, decode, encode } from './cbor.mjs'
import { Wire } from './wire.mjs'

const [HELLO, FRAME, REQUEST, BLOB] = ['/qres/hello/1', '/qres/frame/1', '/qres/request/1', '/qres/blob/1']
const VERSION = 1
const MAX_HELLO = 8192
const MAX_FRAME = 32 * 1024
const MAX_NAME = 256
const MAX_REQUEST = 2 ** 20
const WINDOW = 4
const SECONDS = 30
const [REFUSED, WELCOME] = [0, 1]
const [GOOD, NOT, BUSY] = [0, 1, 2]

const byte = number => Uint8Array.of(number)
const soon = () => AbortSignal.timeout(SECONDS * 1000)
const pause = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000))

/** The specification's id of a message: who sent it first, and its sequence number. */
const messageId = message =>
  Buffer.concat([message.from.toMultihash().bytes, bigEndian(message.sequenceNumber, 8)])

export class Peer {
  #admitted = new Map() // connection id: a promise of whether it is
  #blobs = new Map()
  #frames = new Map() // peer id: the stream that frames for it go over
  #nonce = randomBytes(16)

  /** `seed`: 32 bytes; `roster`: public keys; `emit`: takes events; `answer`: takes requests. */
  static async start ({ seed, swarm, credential, roster, emit, answer }) {
    const peer = new Peer()
    Object.assign(peer, { swarm, credential, emit, answer, topic: `/qres/frames/1/${swarm}` })
    const key = await generateKeyPairFromSeed('Ed25519', seed)
    const members = new Set(roster.map(one => peerIdFromPublicKey(publicKeyFromRaw(one)).toString()))
    const stranger = id => !members.has(id.toString())
    peer.node = await createLibp2p({
      privateKey: key,
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      connectionGater: {
        denyInboundEncryptedConnection: stranger,
        denyOutboundEncryptedConnection: stranger
      },
      services: {
        identify: identify(),
        ping: ping(),
        pubsub: gossipsub({ allowedTopics: [peer.topic], msgIdFn: messageId })
      }
    })
    peer.pubsub.addEventListener('gossipsub:message', ({ detail }) => emit({
      event: 'frame',
      how: 'gossip',
      link: detail.propagationSource.toString(),
      author: detail.msg.from.toString(),
      frame: hex(detail.msg.data)
    }))
    peer.node.addEventListener('connection:close', ({ detail }) => {
      peer.#admitted.delete(detail.id)
      emit({ event: 'closed', peer: detail.remotePeer.toString() })
    })
    await peer.#serve(HELLO, (wire, connection) => peer.#answerHello(wire, connection))
    await peer.#serve(FRAME, (wire, connection) => peer.#readFrames(wire, connection))
    await peer.#serve(REQUEST, (wire, connection) => peer.#answerRequest(wire, connection))
    await peer.#serve(BLOB, wire => peer.#serveChunks(wire))
    peer.pubsub.subscribe(peer.topic)
    return peer
  }

  get pubsub () {
    return this.node.services.pubsub
  }

  async #serve (protocol, handle) {
    await this.node.handle(protocol, async (stream, connection) => {
      try {
        if (protocol !== HELLO && !await this.#whether(connection)) throw new Error('not admitted')
        await handle(new Wire(stream), connection)
        await stream.close()
      } catch (error) {
        stream.abort(error)
      }
    })
  }

  // ── hello ──────────────────────────────────────────────────────────────────────────────────

  /** Wait until a connection is admitted or refused; at most the time a hello may take. */
  async #whether (connection) {
    const end = Date.now() + SECONDS * 1000
    while (!this.#admitted.has(connection.id) && connection.status === 'open' && Date.now() < end) await pause(0.02)
    return this.#admitted.get(connection.id) === true
  }

  #hello () {
    return encode([VERSION, this.swarm, this.#nonce, this.credential])
  }

  #judge (connection, data) {
    const [version, swarm, nonce, credential] = decode(data)
    if (version !== VERSION || nonce.length !== 16) throw new Error('a hello of another form')
    const welcome = swarm === this.swarm
    this.#admitted.set(connection.id, welcome)
    if (welcome) {
      this.emit({
        event: 'admitted',
        peer: connection.remotePeer.toString(),
        by: connection.direction,
        credential: hex(credential)
      })
    }
    return welcome
  }

  async dial (address) {
    const connection = await this.node.dial(multiaddr(address), { signal: soon() })
    const wire = new Wire(await connection.newStream(HELLO, { signal: soon() }))
    await wire.send(this.#hello())
    const [verdict] = await wire.exactly(1, soon())
    if (verdict !== WELCOME) throw new Error('refused')
    const welcome = this.#judge(connection, await wire.block(MAX_HELLO, soon()))
    await wire.stream.close()
    if (!welcome) throw new Error('of another swarm')
    return connection.remotePeer.toString()
  }

  async #answerHello (wire, connection) {
    if (this.#judge(connection, await wire.block(MAX_HELLO, soon()))) await wire.send(this.#hello(), byte(WELCOME))
    else await wire.write(byte(REFUSED))
  }

  async #open (peer, protocol) {
    for (const connection of this.node.getConnections()) {
      if (connection.remotePeer.toString() === peer && await this.#whether(connection)) {
        return new Wire(await connection.newStream(protocol, { signal: soon() }))
      }
    }
    throw new Error('not connected')
  }

  // ── frames ─────────────────────────────────────────────────────────────────────────────────

  async publish (frame) {
    const end = Date.now() + SECONDS * 1000
    while (this.pubsub.getSubscribers(this.topic).length === 0 && Date.now() < end) await pause(0.05)
    return (await this.pubsub.publish(this.topic, frame)).recipients.length
  }

  async send (to, frame) {
    let wire = this.#frames.get(to)
    if (wire?.stream.status !== 'open') this.#frames.set(to, wire = await this.#open(to, FRAME))
    await wire.send(frame)
  }

  async #readFrames (wire, connection) {
    const link = connection.remotePeer.toString()
    while (true) {
      const frame = await wire.block(MAX_FRAME)
      this.emit({ event: 'frame', how: 'stream', link, author: link, frame: hex(frame) })
    }
  }

  // ── requests ───────────────────────────────────────────────────────────────────────────────

  async request (to, name, data) {
    const wire = await this.#open(to, REQUEST)
    const named = Buffer.from(name)
    await wire.send(data, Buffer.concat([bigEndian(named.length, 4), named]))
    const [status] = await wire.exactly(1, soon())
    const reply = await wire.block(MAX_REQUEST, soon())
    await wire.stream.close()
    if (status !== GOOD) throw new Error(`${status === BUSY ? 'busy' : 'refused'}: ${Buffer.from(reply)}`)
    return reply
  }

  async #answerRequest (wire, connection) {
    const name = Buffer.from(await wire.block(MAX_NAME, soon())).toString()
    const data = await wire.block(MAX_REQUEST, soon())
    const reply = await this.answer(connection.remotePeer.toString(), name, data)
    if (reply === undefined) await wire.send(Buffer.from('no such protocol'), byte(NOT))
    else await wire.send(reply, byte(GOOD))
  }

  // ── blobs ──────────────────────────────────────────────────────────────────────────────────

  /** Serve a blob; under a name that is not its own if `ref` is given. */
  hold (data, ref = BlobRef.of(data)) {
    this.#blobs.set(hex(ref.root), data)
    return ref
  }

  async #serveChunks (wire) {
    while (true) {
      const asked = await wire.exactly(36)
      const start = new DataView(Uint8Array.from(asked.subarray(32)).buffer).getUint32(0) * CHUNK
      const chunk = this.#blobs.get(hex(asked.subarray(0, 32)))?.subarray(start, start + CHUNK) ?? []
      if (chunk.length === 0) await wire.send(new Uint8Array(), byte(NOT))
      else await wire.send(chunk, byte(GOOD))
    }
  }

  /** Pull a blob from one holder, a few chunks ahead of time, and check each. */
  async fetch (from, ref) {
    const wire = await this.#open(from, BLOB)
    const chunks = []
    let asked = 0
    while (chunks.length < ref.chunks.length) {
      for (; asked < Math.min(chunks.length + WINDOW, ref.chunks.length); asked++) {
        await wire.write(ref.root, bigEndian(asked, 4))
      }
      const [status] = await wire.exactly(1, soon())
      const chunk = await wire.block(CHUNK, soon())
      if (status !== GOOD) throw new Error(status === BUSY ? 'busy' : 'not here')
      const right = chunk.length === ref.length(chunks.length) && timingSafeEqual(sha256(chunk), ref.chunks[chunks.length])
      if (!right) throw new Error(`chunk ${chunks.length} is not what was announced`)
      chunks.push(chunk)
    }
    await wire.stream.close()
    return Buffer.concat(chunks)
  }
}

export const hex = data => Buffer.from(data).toString('hex')
