/**
 * Exec, attach and port-forward: the half of CRI that is not gRPC. An RPC leaves a grant here and gets a URL back;
 * whoever dials the URL, which is the kubelet for kubectl, or crictl, uses the grant up and talks to the pod.
 *
 *   server.ts       grants and tokens, the HTTP server, TLS, one audit line per session
 *   session.ts      what happens between a client and the pod
 *   spdy.ts         clients over SPDY/3.1 (spdy-frames.ts: its bytes)
 *   websocket.ts    clients over WebSocket
 *
 * A token is the only key: 128 random bits, good once and for a minute. Requests from browsers are refused, since a
 * page may know a port of this machine.
 */
export { StreamServer } from './server.ts';
