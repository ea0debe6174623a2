// Runs a peer. A line of JSON on the standard input says who it is, each further one what to do;
// each line of the standard output is an event, or the answer to the command with the same `id`.

import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { BlobRef, sha256 } from './blob.mjs'
import { hex, Peer } from './qres.mjs'

const bytes = text => new Uint8Array(Buffer.from(text, 'hex'))
const say = line => process.stdout.write(JSON.stringify(line) + '\n')

const commands = {
  dial: async (peer, { address }) => await peer.dial(address),
  publish: async (peer, { frame }) => await peer.publish(bytes(frame)),
  send: async (peer, { to, frame }) => await peer.send(to, bytes(frame)),
  request: async (peer, { to, protocol, data }) => hex(await peer.request(to, protocol, bytes(data))),
  // `spoil`: the place of a byte that is served wrong.
  hold: async (peer, { file, spoil }) => {
    const data = await readFile(file)
    const ref = BlobRef.of(data)
    if (spoil !== undefined) data[spoil] ^= 1
    return hex(peer.hold(data, ref).announce())
  },
  fetch: async (peer, { from, announcement }) => {
    const data = await peer.fetch(from, BlobRef.announced(bytes(announcement)))
    return { size: data.length, sha256: hex(sha256(data)) }
  }
}

// What it answers to requests: the protocol "reverse" turns them around.
const answer = async (from, name, data) => name === 'reverse' ? Uint8Array.from(data).reverse() : undefined

let peer
for await (const line of createInterface({ input: process.stdin })) {
  const said = JSON.parse(line)
  if (peer === undefined) {
    peer = await Peer.start({
      seed: bytes(said.seed),
      swarm: said.swarm,
      credential: bytes(said.credential),
      roster: said.roster.map(bytes),
      emit: say,
      answer
    })
    say({ event: 'ready', peer: peer.node.peerId.toString(), addresses: peer.node.getMultiaddrs().map(String) })
    continue
  }
  // Not awaited: a fetch does not hold up the commands after it.
  commands[said.op](peer, said).then(
    ok => say({ id: said.id, ok: ok ?? null }),
    error => say({ id: said.id, error: `${error.name}: ${error.message}` })
  )
}
await peer?.node.stop()
process.exit(0)
