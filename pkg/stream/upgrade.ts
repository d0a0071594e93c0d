/** From an HTTP request to a client: what is refused, and which transport and protocol the two sides have in common. */
import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { within } from '../base/time.ts';
import type { ForwardGrant, PortsClient, StdioClient, Wanted } from './client.ts';
import { openSpdyPorts, openSpdyStdio, SPDY_PORTS_PROTOCOLS, SPDY_STDIO_PROTOCOLS } from './spdy.ts';
import {
  openWebSocketPorts,
  openWebSocketStdio,
  TUNNEL_PROTOCOL,
  upgradeToWebSocket,
  WEBSOCKET_PORTS_MAX,
  WEBSOCKET_PORTS_PROTOCOLS,
  WEBSOCKET_STDIO_PROTOCOLS,
} from './websocket.ts';
import { socketWire } from './wire.ts';

/** Why a request is not served. */
export interface Refusal {
  readonly code: number;
  readonly text: string;
  readonly headers?: readonly string[];
}
/** No such session, whatever the reason. */
export const NOT_FOUND: Refusal = { code: 404, text: 'there is no such session: every URL works once, for a minute' };
const PATH = /^\/(exec|attach|portforward)\/([A-Za-z0-9_-]{22})$/;

/** What the URL is for; '' for none of ours. */
export function kindOf(request: IncomingMessage): string {
  return PATH.exec(request.url ?? '')?.[1] ?? '';
}

/** The token in the URL; '' for none of ours. */
export function tokenOf(request: IncomingMessage): string {
  return PATH.exec(request.url ?? '')?.[2] ?? '';
}

/**
 * Refuses what no client of CRI sends. A browser that talks to us says `Origin`; one whose request the kubelet hands on
 * has passed its authorization, which shows in a header that no browser lets a page set.
 */
export function refuse(request: IncomingMessage): Refusal | undefined {
  if (request.method !== 'GET' && request.method !== 'POST') return { code: 405, text: 'want GET or POST' };
  if (request.headers.origin !== undefined && request.headers['x-forwarded-for'] === undefined)
    return { code: 403, text: 'requests from browsers are refused' };
  return kindOf(request) === '' ? NOT_FOUND : undefined;
}

/** A body would be taken for the upgraded protocol by some on the way and not by others. */
export function refuseBody({ headers }: IncomingMessage): Refusal | undefined {
  const has = headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
  return has ? { code: 400, text: 'a request to upgrade has no body' } : undefined;
}

/** Answers a request whose socket is ours by now, and closes. */
export async function answerRaw(socket: Socket, { code, text, headers = [] }: Refusal): Promise<void> {
  const body = `${text}\n`;
  const lines = [
    `HTTP/1.1 ${code} ${STATUS_CODES[code] ?? ''}`,
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    ...headers,
  ];
  const sent = new Promise<void>((resolve) => {
    socket.once('close', resolve);
    socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`, () => resolve());
  });
  await within(limits.streamLingerMs, sent);
  socket.destroy();
}

/**
 * Which transport the request asks for, and which of the protocols it offers is the first that we have; answered
 * already if there is none.
 */
async function negotiate(
  request: IncomingMessage,
  socket: Socket,
  offers: { readonly spdy: readonly string[]; readonly webSocket: readonly string[] },
): Promise<{ readonly transport: 'spdy' | 'webSocket'; readonly protocol: string } | undefined> {
  const wanted = (request.headers.upgrade ?? '').toLowerCase();
  const transport = wanted === 'spdy/3.1' ? 'spdy' : wanted === 'websocket' ? 'webSocket' : undefined;
  if (transport === undefined) {
    await answerRaw(socket, { code: 400, text: `cannot upgrade to ${quote(wanted)}; want SPDY/3.1 or websocket` });
    return undefined;
  }
  const header =
    transport === 'spdy' ? request.headers['x-stream-protocol-version'] : request.headers['sec-websocket-protocol'];
  const offered = String(header ?? '')
    .split(',')
    .map((each) => each.trim());
  // The oldest clients of either transport name none.
  const ours = transport === 'spdy' && header === undefined ? [...offers.spdy, ''] : offers[transport];
  const protocol = offered.find((each) => ours.includes(each));
  if (protocol !== undefined) return { transport, protocol };
  await answerRaw(socket, {
    code: 403,
    text: `no protocol in common: the client speaks ${quote(offered.join(', '))}, we speak ${ours.join(', ')}`,
    headers: ours.map((each) => `X-Accepted-Stream-Protocol-Versions: ${each}`),
  });
  return undefined;
}

/** Upgrades to a client of exec or attach, whose streams are all there; undefined if it was answered otherwise. */
export async function openStdio(
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
  wanted: Wanted,
): Promise<StdioClient | undefined> {
  const chosen = await negotiate(request, socket, { spdy: SPDY_STDIO_PROTOCOLS, webSocket: WEBSOCKET_STDIO_PROTOCOLS });
  if (chosen === undefined) return undefined;
  if (chosen.transport === 'spdy')
    return await openSpdyStdio(upgradeToSpdy(socket, head, chosen.protocol), wanted, chosen.protocol);
  const wire = await upgradeToWebSocket(request, socket, head, chosen.protocol);
  return wire === null ? undefined : openWebSocketStdio(wire, wanted, chosen.protocol);
}

/** Upgrades to a client that forwards ports; undefined if it was answered otherwise. */
export async function openPorts(
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
  grant: ForwardGrant,
): Promise<PortsClient | undefined> {
  const chosen = await negotiate(request, socket, { spdy: SPDY_PORTS_PROTOCOLS, webSocket: WEBSOCKET_PORTS_PROTOCOLS });
  if (chosen === undefined) return undefined;
  if (chosen.transport === 'spdy') return openSpdyPorts(upgradeToSpdy(socket, head, chosen.protocol));
  const tunnels = chosen.protocol === TUNNEL_PROTOCOL;
  if (!tunnels && (grant.port.length === 0 || grant.port.length > WEBSOCKET_PORTS_MAX)) {
    await answerRaw(socket, {
      code: 400,
      text:
        `over WebSocket channels the PortForward request must name 1 to ${WEBSOCKET_PORTS_MAX} ` +
        `ports; it named ${grant.port.length}`,
    });
    return undefined;
  }
  const wire = await upgradeToWebSocket(request, socket, head, chosen.protocol);
  if (wire === null) return undefined;
  return tunnels ? openSpdyPorts(wire) : openWebSocketPorts(wire, grant.port, chosen.protocol);
}

function upgradeToSpdy(socket: Socket, head: Buffer, protocol: string): ReturnType<typeof socketWire> {
  const lines = [
    'HTTP/1.1 101 Switching Protocols',
    'Connection: Upgrade',
    'Upgrade: SPDY/3.1',
    ...(protocol === '' ? [] : [`X-Stream-Protocol-Version: ${protocol}`]),
  ];
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  return socketWire(socket, head);
}
